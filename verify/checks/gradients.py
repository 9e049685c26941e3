"""The generated layers and their backward passes by two other routes: finite differences, and references by hand.

    gradcheck, gradgradcheck    first and second order against finite differences, in float64
    forward, backward-dx, ..    output and every gradient against the reference, in every type, on every backend

A layer may be off from the reference in float64 by what rounding every operation of the reference does to it, times a
small factor: that is the bound, measured at the same instance (``roundings``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest, relative_error
from verify.checks.record import Outcome, Setting, Task
from verify.checks.roundings import rounding_error

ROUNDINGS = 12  # a result may be off by so many times what roundings on the way to it changed in a few draws
_SHAPES = {"torch": 8, "triton": 2, "cuda": 8, "cpp": 8}
_CHECKED = 3
_LARGEST_CHECKED = 5
_LEAST = 2  # the direction of a single input never turns: its dx is 0, and no relative error exists
_TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_COMMON = ("float64", "float32", "bfloat16")


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks of one generated layer; torch's own layers have none."""
    if subject.reference is None or "gradient" not in subject.families:
        return []
    by = ("forward", *(f"backward-d{name}" for name in subject.by))
    found = [_parity(subject, what, dtype) for dtype in _types(subject) for what in by]
    if subject.backend != "torch":
        return found
    first = _differences(subject, "gradcheck", gradcheck, "the backward pass against finite differences")
    second = _differences(subject, "gradgradcheck", gradgradcheck, "its own derivative against finite differences")
    return [first, second, *found]


def _types(subject: Subject) -> list[str]:
    """Return the types that a backend computes in: of 16-bit numbers there are no kernels in C++."""
    return list(subject.types) or [n for n in _COMMON if subject.backend != "cpp" or _TYPES[n].itemsize >= 4]


def _differences(subject: Subject, name: str, check: Callable[..., Any], what: str) -> Task:
    identity = subject.identity("gradient", name)
    equations = ", ".join(subject.equation(f"backward-d{of}") for of in subject.by)
    rows = subject.variant == ""

    def run(setting: Setting) -> Outcome:
        """Let autograd's numerical check have the drawn cases."""
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
    real = [t.clone().requires_grad_(t.is_floating_point()) for t in case.inputs.values()]

    def function(*tensors: Tensor) -> Tensor:
        """Return the output as a function of inputs and parameters."""
        inputs, parameters = tensors[: len(real)], tensors[len(real) :]
        result = torch.func.functional_call(case.module, dict(zip(names, parameters, strict=True)), inputs)
        assert isinstance(result, Tensor)
        return result

    return function, (*real, *values)


def _parity(subject: Subject, what: str, dtype: str) -> Task:
    suffix = "" if dtype == "float64" else f"/{dtype}"
    identity = subject.identity("gradient", what) + suffix

    def run(setting: Setting) -> Outcome:
        """Return the largest error of the drawn cases in roundings of the type."""
        count = _SHAPES[subject.backend] if subject.variant == "" else 6 if subject.backend == "torch" else 2
        drawn = cases(subject, setting, identity, count=count, least=_LEAST, largest=8)
        generator = setting.generator(f"{identity}/rounding")
        with _onednn(dtype not in subject.without_onednn):
            worst = largest(error_in_roundings(subject, case, what, _TYPES[dtype], generator) for case in drawn)
        reason = f"largest difference from the reference in float64, in roundings on the way to it, {len(drawn)} shapes"
        return Outcome(reason, worst, ROUNDINGS)

    return Task(identity, subject.layer, subject.backend, dtype, subject.equation(what), run)


@contextmanager
def _onednn(enabled: bool) -> Iterator[None]:
    """Let torch use oneDNN inside the context, if it does at all, or not."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    onednn.enabled = before and enabled
    try:
        yield
    finally:
        onednn.enabled = before


def error_in_roundings(
    subject: Subject, case: Case, what: str, dtype: torch.dtype, generator: torch.Generator
) -> float:
    """Return the largest error of one result, in what rounding does to the reference on its way to it.

    In float64 also of a gradient that is recorded, for which a layer may differ.
    """
    low = case.as_type(dtype)
    rounded = low.as_type(torch.float64)
    unit = torch.finfo(dtype).eps / 2
    expected, change = rounding_error(lambda: by_hand(subject, rounded, what), unit, generator)
    modes = (False, True) if dtype is torch.float64 and what != "forward" and subject.backend == "torch" else (False,)
    results = (by_module(low, what, recorded=recorded) for recorded in modes)
    scale = float(change.max()) if change.numel() else 0.0
    return largest(relative_error(z.double().cpu().numpy(), expected.cpu().numpy(), scale=scale) for z in results)


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
