"""What the output projection of torch's attention reads: torch calls a function for it, and no module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class OutputProjection:
    """Stands in for ``torch.nn.functional.linear`` while one attention module runs, and keeps what it is to project.

    Attributes:
        read: what the output projection was called with since ``enter``.
    """

    def __init__(self) -> None:
        self.read: list[Tensor] = []
        self._real: Callable[..., Any] | None = None

    def enter(self, module: nn.MultiheadAttention) -> None:
        """Begin to listen to a module; one inside another is not listened to."""
        if self._real is not None:
            return
        self._real = real = F.linear
        self.read = []

        def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            if weight is module.out_proj.weight:
                self.read.append(input)
            return real(input, weight, bias)

        F.linear = _linear

    def leave(self) -> None:
        """End it, also where the module failed; torch's function is back in its place."""
        if self._real is not None:
            F.linear, self._real = self._real, None
