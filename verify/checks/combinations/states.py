"""State dicts and initial values of modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from verify.checks.combinations.named import said

_DEVIATION = 0.03  # relative; several standard errors of a deviation estimated from a module's thousands of weights


def same_state(ours: nn.Module, theirs: nn.Module) -> float:
    """Return 0 if both state dicts have the same names, order and shapes, and each loads into the other module."""
    mine, other = ours.state_dict(), theirs.state_dict()
    same = list(mine) == list(other) and [t.shape for t in mine.values()] == [t.shape for t in other.values()]
    if not same or [n for n, _ in ours.named_parameters()] != [n for n, _ in theirs.named_parameters()]:
        return math.inf
    ours.load_state_dict(other)
    theirs.load_state_dict(ours.state_dict())
    return said(all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), other.values(), strict=True)))


def first_values(make: Callable[..., Any], deviation: float | None, weights: tuple[str, ...] = ("weight",)) -> float:
    """Return 0 if the initial weights have the standard deviation ``deviation`` and the initial biases are zero."""
    module = make()
    for name in weights:
        w = module.get_parameter(name).detach()
        if deviation is not None and not abs(float(w.square().mean().sqrt()) / deviation - 1) < _DEVIATION:
            return math.inf
        if not abs(float(w.mean())) < _DEVIATION * float(w.std()):
            return math.inf
    biases = [p for name, p in module.named_parameters() if name.endswith("bias")]
    return said(all(not b.any() for b in biases))
