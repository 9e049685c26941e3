"""States of modules and their first values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from verify.checks.combinations.named import said

_DEVIATION = 0.03  # some standard errors of a deviation that is estimated from the thousands of numbers of a module


def same_state(ours: nn.Module, theirs: nn.Module) -> float:
    """Return 0 if states have the same names in one order and the same shapes, and load both ways."""
    mine, other = ours.state_dict(), theirs.state_dict()
    same = list(mine) == list(other) and [t.shape for t in mine.values()] == [t.shape for t in other.values()]
    if not same or [n for n, _ in ours.named_parameters()] != [n for n, _ in theirs.named_parameters()]:
        return math.inf
    ours.load_state_dict(other)
    theirs.load_state_dict(ours.state_dict())
    return said(all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.values(), strict=True)))


def first_values(make: Callable[..., Any], deviation: float | None, weights: tuple[str, ...] = ("weight",)) -> float:
    """Return 0 if first weights have the deviation and first biases are zero."""
    module = make()
    for name in weights:
        w = module.get_parameter(name).detach()
        if deviation is not None and not abs(float(w.square().mean().sqrt()) / deviation - 1) < _DEVIATION:
            return math.inf
        if not abs(float(w.mean())) < _DEVIATION * float(w.std()):
            return math.inf
    biases = [p for name, p in module.named_parameters() if name.endswith("bias")]
    return said(all(not b.any() for b in biases))
