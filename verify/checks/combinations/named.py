"""Checks over a list of named cases: the largest error is measured, and its case is reported."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from verify.checks.comparison import distance
from verify.checks.record import Outcome, Setting, Task

Case = Callable[[torch.Generator], float]


def task(
    identity: str, layer: str, equation: str, what: str, cases: Callable[[], Mapping[str, Case]], bound: float
) -> Task:
    """Return the check of some cases; each case returns its error, infinite for a failure without a magnitude."""

    def run(setting: Setting) -> Outcome:
        """Return the largest error and the name of its case."""
        errors = {}
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own layers warn that padding may copy
            torch.manual_seed(setting.seed_of(identity))
            for name, case in cases().items():
                try:
                    errors[name] = case(setting.generator(f"{identity}/{name}"))
                except Exception as problem:
                    text = (str(problem).strip().splitlines() or [""])[0]
                    raise RuntimeError(f"{type(problem).__name__}: {text}; at {name}") from problem
        worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
        return Outcome(f"{what}, {len(errors)} cases; at {worst}", measured=errors[worst], bound=bound)

    return Task(identity, layer, "torch", "several", equation, run)


def error(found: Tensor, exact: Tensor, dtype: torch.dtype | None = None) -> float:
    """Return the relative difference; infinite if ``found`` does not have the required dtype."""
    if dtype is not None and found.dtype is not dtype:
        return math.inf
    return distance([found], [exact])


def said(holds: bool) -> float:
    """Return 0 if the condition holds, else infinity."""
    return 0.0 if holds else math.inf


def refused(call: Callable[[], object], *kinds: type[Exception]) -> float:
    """Return 0 if the call raises one of these exceptions, else infinity."""
    try:
        call()
    except kinds:
        return 0.0
    except Exception:
        return math.inf
    return math.inf


def refusal(call: Callable[[], object], *kinds: type[Exception]) -> Case:
    """Return the case of a call that must raise one of these exceptions."""
    return lambda generator: refused(call, *kinds)


def later(function: Callable[..., float], *arguments: Any) -> Case:
    """Return the case of a function that needs no random generator."""
    return lambda generator: function(*arguments)
