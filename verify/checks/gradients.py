"""The generated layers and their backward passes by two other routes: finite differences, and references by hand.

    gradcheck, gradgradcheck    first and second order against finite differences, in float64
    forward, backward-dx, ..    output and every gradient against the reference, in every type, on every backend

In float64 the two agree up to rounding. In a shorter type the layer may be off by what rounding its inputs does to the
reference in float64, times a small factor: that is the bound, measured at the same instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest, relative_error
from verify.checks.record import Outcome, Setting, Task

BOUND = 1e-12
ROUNDINGS = 16  # roundings that a result may be off by: of each operand, of each intermediate, of the result
_SHAPES = {"torch": 8, "triton": 2, "cuda": 8}
_CHECKED = 3
_LARGEST_CHECKED = 5
_LEAST = 2  # the direction of a single input never turns: its dx is 0, and no relative error exists
_TYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
_PERTURBATIONS = 4


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks of one generated layer; torch's own layers have none."""
    if subject.reference is None or "gradient" not in subject.families:
        return []
    by = ("forward", *(f"backward-d{name}" for name in subject.by))
    found = [_parity(subject, what, dtype) for dtype in _TYPES for what in by]
    if subject.backend != "torch":
        return found
    first = _differences(subject, "gradcheck", gradcheck, "the backward pass against finite differences")
    second = _differences(subject, "gradgradcheck", gradgradcheck, "its own derivative against finite differences")
    return [first, second, *found]


def _differences(subject: Subject, name: str, check: Callable[..., Any], what: str) -> Task:
    identity = subject.identity("gradient", name)
    equations = ", ".join(subject.equation(f"backward-d{of}") for of in subject.by)
    rows = subject.variant == ""

    def run(setting: Setting) -> Outcome:
        count = _CHECKED if rows else 1
        drawn = cases(subject, setting, identity, count=count, largest=_LARGEST_CHECKED)
        for case in drawn:
            check(*_function_and_inputs(case), raise_exception=True, fast_mode=not (rows or setting.full))
        return Outcome(f"{what}, with every input and parameter, at {len(drawn)} random shapes", ok=True)

    return Task(identity, subject.layer, subject.backend, "float64", equations, run)


def _function_and_inputs(case: Case) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return the module as a function of its inputs and its parameters, and where to evaluate it."""
    names = [name for name, _ in case.module.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in case.module.parameters()]
    real = [t.clone().requires_grad_() for t in case.inputs.values()]

    def function(*tensors: Tensor) -> Tensor:
        inputs, parameters = tensors[: len(real)], tensors[len(real) :]
        result = torch.func.functional_call(case.module, dict(zip(names, parameters, strict=True)), inputs)
        assert isinstance(result, Tensor)
        return result

    return function, (*real, *values)


def _parity(subject: Subject, what: str, dtype: str) -> Task:
    suffix = "" if dtype == "float64" else f"/{dtype}"
    identity = subject.identity("gradient", what) + suffix

    def run(setting: Setting) -> Outcome:
        if setting.device == "cpu" and dtype in subject.skips:
            return Outcome(subject.skips[dtype])
        count = _SHAPES[subject.backend] if subject.variant == "" else 6 if subject.backend == "torch" else 2
        drawn = cases(subject, setting, identity, count=count, least=_LEAST, largest=8)
        if dtype == "float64":
            worst = largest(_error(subject, case, what) for case in drawn)
            return Outcome(
                f"largest relative difference from the reference, {len(drawn)} shapes", worst, BOUND * subject.slack
            )
        generator = setting.generator(f"{identity}/rounding")
        worst = largest(_error_in_roundings(subject, case, what, _TYPES[dtype], generator) for case in drawn)
        reason = f"largest difference from the reference in float64, in roundings of its inputs, {len(drawn)} shapes"
        return Outcome(reason, worst, ROUNDINGS * subject.slack)

    return Task(identity, subject.layer, subject.backend, dtype, subject.equation(what), run)


def _error(subject: Subject, case: Case, what: str) -> float:
    """Return the relative error of one result, also of a gradient that is recorded, for which a layer may differ."""
    expected = by_hand(subject, case, what)
    modes = (False, True) if what != "forward" and subject.backend == "torch" else (False,)
    ours = (by_module(case, what, recorded=recorded) for recorded in modes)
    return largest(relative_error(value.cpu().numpy(), expected.cpu().numpy()) for value in ours)


def _error_in_roundings(
    subject: Subject, case: Case, what: str, dtype: torch.dtype, generator: torch.Generator
) -> float:
    """Return the largest error of one result over the largest change that rounding the operands makes."""
    low = case.as_type(dtype)
    rounded = low.as_type(torch.float64)
    expected = by_hand(subject, rounded, what)
    unit = torch.finfo(dtype).eps / 2
    moved = [by_hand(subject, _perturbed(rounded, unit, generator), what) for _ in range(_PERTURBATIONS)]
    change = max(float((m - expected).abs().max()) for m in moved) + unit * float(expected.abs().max())
    return relative_error(by_module(low, what).double().cpu().numpy(), expected.cpu().numpy(), scale=change)


def _perturbed(case: Case, unit: float, generator: torch.Generator) -> Case:
    """Return the case with every number off by a random rounding."""

    def moved(t: Tensor) -> Tensor:
        noise = torch.rand(t.shape, generator=generator, dtype=torch.float64).to(t.device)
        return t * (1 + unit * (2 * noise - 1))

    copied = case.as_type(torch.float64)
    with torch.no_grad():
        for parameter in copied.module.parameters():
            parameter.copy_(moved(parameter))
    inputs = {name: moved(t) if t.is_floating_point() else t for name, t in copied.inputs.items()}
    return replace(copied, inputs=inputs, g=moved(copied.g))


def by_module(case: Case, what: str, *, recorded: bool = False) -> Tensor:
    """Return the module's output or one gradient of ``sum(g * z)``, ``what`` the name of the equation that states it.

    ``recorded`` asks for gradients that can be differentiated again.
    """
    return _result(case, what, lambda inputs, parameters: case.module(*inputs.values()), recorded)


def by_hand(subject: Subject, case: Case, what: str) -> Tensor:
    """Return the same of the reference."""
    reference = subject.reference
    assert reference is not None
    return _result(case, what, lambda inputs, parameters: reference({**inputs, **case.laid(parameters)}, case), False)


def _result(
    case: Case, what: str, forward: Callable[[dict[str, Tensor], Mapping[str, Tensor]], Tensor], recorded: bool
) -> Tensor:
    inputs = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in case.inputs.items()}
    parameters = dict(case.module.named_parameters())
    z = forward(inputs, parameters)
    if what == "forward":
        return z.detach()
    name = what.removeprefix("backward-d")
    if name in inputs:
        (gradient,) = torch.autograd.grad(z, inputs[name], case.g, create_graph=recorded)
        return gradient.detach()
    attribute = f"inner.{case.places[name].attribute}"
    (gradient,) = torch.autograd.grad(z, parameters[attribute], case.g, create_graph=recorded)
    return case.laid({**parameters, attribute: gradient})[name].detach()
