"""Estimate the rounding error of a result: compute the reference again with random rounding in every operation.

A result is as sensitive as the steps that lead to it. For example, attention barely depends on a common shift of its
scores. So the gradient with respect to its keys is a small difference of large terms, and its rounding error scales
with those terms, not with their difference or with the effect of rounding the operands alone. Therefore operands *and*
intermediates are rounded, in the forward and in the backward pass (Monte Carlo arithmetic: D. S. Parker, UCLA
CSD-970002, 1997). The resulting change measures the condition of this computation on these data; a correct result may
be off by a few times as much. Rounding inside sums, once per term, is not simulated: sums are short here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_LEAST_UNIT = 2.0**-26  # far above float64's rounding, small enough for a proportional change
_RUNS = 4
_FACTORS = 4096
_SUMS = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "sum", "mean"}


def rounding_errors(
    results: Callable[[], Sequence[Tensor]], unit: float, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Return each result in float64, and for each entry the largest change caused by roundings of ``unit``.

    ``results`` is called again for each of a few draws of the roundings. If the unit is too small for float64, the
    change is measured with a larger unit and scaled down.
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
    """A mode that perturbs each entry of results, and of the operands of sums, by up to ``unit`` relative to it.

    Sums, including matrix products, may hide the rounding of their operands, so these are rounded too. Views round
    nothing.
    """

    def __init__(self, unit: float, generator: torch.Generator) -> None:
        super().__init__()
        # One draw, read from random offsets: a new draw for each small tensor would dominate the cost.
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
        """Run a torch operation and round its result."""
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
