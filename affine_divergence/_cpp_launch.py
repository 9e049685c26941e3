"""Torch tensors as arguments of the generated C++ kernels, and how many threads work on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, get_num_threads

from ._cpp_compile import ELEMENTS, compiled
from ._rows import in_memory

_ENOUGH = 2**14  # numbers for each of several threads


class Source:
    """A file of kernels beside this one, compiled for each type at first use."""

    def __init__(self, name: str) -> None:
        self._path = Path(__file__).with_name(name)
        self._made: dict[torch.dtype, Any] = {}

    def on(self, tensor: Tensor) -> Any:
        """Return the kernels for a tensor's type; raises what ``compiled`` raises."""
        found = self._made.get(tensor.dtype)
        if found is None:
            found = self._made[tensor.dtype] = compiled(self._path, tensor.dtype)
        return found

    def ready(self, tensor: Tensor, *others: Tensor) -> tuple[Any, int] | None:
        """Return the kernels for a tensor's type and how many threads to take; None if they cannot read it or another."""
        if not all(map(suits, (tensor, *others))):
            return None
        work = tensor.numel()
        threads = 1 if work < 2 * _ENOUGH else min(get_num_threads(), work // _ENOUGH)
        return self._made.get(tensor.dtype) or self.on(tensor), threads


def suits(tensor: Tensor) -> bool:
    """Return whether kernels can read a tensor: a plain one of a type that they have, at an address of the CPU."""
    return tensor.is_cpu and tensor.dtype in ELEMENTS and in_memory(tensor)
