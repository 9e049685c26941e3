"""The generated backward passes against finite differences: first order and second order, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from verify.checks.record import Outcome, Setting, Task
from verify.checks.subjects import Case, Subject, cases

_SHAPES = 4
_LARGEST = 5


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks of one generated layer; torch's own layers have none."""
    if not subject.generated:
        return []
    first = _task(subject, "gradcheck", gradcheck, "the derived backward pass against finite differences")
    second = _task(subject, "gradgradcheck", gradgradcheck, "its own derivative against finite differences")
    return [first, second]


def _task(subject: Subject, name: str, check: Callable[..., Any], what: str) -> Task:
    identity = f"gradient/{subject.name}/{name}"
    equations = ", ".join(f"{subject.name}/backward-d{of}" for of in ("x", *subject.parameters))

    def run(setting: Setting) -> Outcome:
        drawn = cases(subject, setting, identity, count=_SHAPES, largest=_LARGEST)
        for case in drawn:
            check(*_function_and_inputs(case), raise_exception=True)
        return Outcome(f"{what}, with every input and parameter, at {len(drawn)} random shapes", ok=True)

    return Task(identity, subject.layer, subject.backend, "float64", equations, run)


def _function_and_inputs(case: Case) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return the module as a function of its input and its parameters, and where to evaluate it."""
    names = [name for name, _ in case.module.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in case.module.parameters()]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        result = torch.func.functional_call(case.module, dict(zip(names, parameters, strict=True)), (x,))
        assert isinstance(result, Tensor)
        return result

    return function, (case.x.clone().requires_grad_(), *values)
