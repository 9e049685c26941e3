"""How far rounding alone can take a result: a reference computed again with every operation off by a random rounding.

A result is as sensitive as the steps that lead to it. For example, attention barely depends on a common shift of its
scores. So the gradient with respect to its keys is a small difference of large terms, and its rounding error scales
with those terms, not with their difference or with the effect of rounding the operands alone. So operands *and*
intermediates are rounded (Monte Carlo arithmetic: D. S. Parker, UCLA CSD-970002, 1997), in the forward pass and in the
backward pass. What that changes is the condition of this computation on these data; a result may be off by a few times
as much. A sum's own roundings, one a term, are not among them: sums are short here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_LEAST_UNIT = 2.0**-26  # far above float64's own rounding, small enough that a change is in proportion to it
_RUNS = 4
_FACTORS = 4096
_SUMS = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "sum", "mean"}


def rounding_errors(
    results: Callable[[], Sequence[Tensor]], unit: float, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Return each result in float64, and at each entry the largest change that roundings of ``unit`` made to it.

    ``results`` is called again for each of a few draws of the roundings. Where the unit is too small to be seen in
    float64 the change is measured at a larger one and scaled.
    """
    expected, coarse = results(), max(unit, _LEAST_UNIT)
    changes = [unit * each.abs() for each in expected]
    for _ in range(_RUNS):
        with Rounding(coarse, generator):
            moved = results()
        parts = zip(changes, moved, expected, strict=True)
        changes = [change.maximum((m - e).abs() * (unit / coarse)) for change, m, e in parts]
    return list(zip(expected, changes, strict=True))


class Rounding(TorchDispatchMode):
    """Inside it what every operation returns is off by up to ``unit`` of each entry, and so is what sums read.

    Sums, matrix products among them, hide the rounding of their operands; elsewhere it shows in the result. What only
    looks at a tensor in another way rounds nothing.
    """

    def __init__(self, unit: float, generator: torch.Generator) -> None:
        super().__init__()
        # One draw, read from random places on: drawing anew for each small tensor would cost more than all else.
        self.factors = 1 + unit * (2 * torch.rand(_FACTORS, generator=generator, dtype=torch.float64) - 1)
        self.count = _FACTORS
        self.places = random.Random(generator.initial_seed())

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and torch's guard around each operation costs as much as the operation.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operation of torch's, and round."""
        if func.is_view or func._schema.is_mutable:
            return func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _SUMS:
            args = tuple(map(self._rounded, args))
        found = func(*args, **(kwargs or {}))
        return type(found)(map(self._rounded, found)) if isinstance(found, tuple | list) else self._rounded(found)

    def _rounded(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        size = value.numel()
        if self.factors.device != value.device:
            self.factors = self.factors.to(value.device)
        if size > self.count // 2:
            self.factors = self.factors.repeat(2 * size // self.count + 1)
            self.count = len(self.factors)
        start = self.places.randrange(self.count - size)
        return value * self.factors[start : start + size].view(value.shape)
