"""Check generated layers and their backward passes against finite differences and hand-written references.

    gradcheck, gradgradcheck    first and second order against finite differences, in float64
    forward, backward-dx, ..    output and every gradient against the reference, in every dtype, on every backend

The bound on the error is a small multiple of the effect of rounding every operation of the reference, measured on the
same instance (``roundings``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from verify.checks import target
from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest, relative_error
from verify.checks.record import Outcome, Setting, Task
from verify.checks.roundings import rounding_errors

ROUNDINGS = 12  # bound on the error, in units of the largest change that random roundings caused in a few draws
_SHAPES = {"torch": 8, "triton": 2, "cuda": 8, "cpp": 8}
_CHECKED = 3
_LARGEST_CHECKED = 5
_LEAST = 2  # features; a single feature has only a sign, so that dx = 0 and no relative error exists
_TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_COMMON = ("float64", "float32", "bfloat16")


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks for one generated layer; torch's own layers have none."""
    if subject.reference is None or "gradient" not in subject.families:
        return []
    parities = [_Parity(subject, dtype) for dtype in _types(subject)]
    found = [parity.task(what) for parity in parities for what in results_of(subject)]
    if subject.backend != "torch":
        return found
    first = _differences(subject, "gradcheck", gradcheck, "the backward pass against finite differences")
    second = _differences(subject, "gradgradcheck", gradgradcheck, "its own derivative against finite differences")
    return [first, second, *found]


def _types(subject: Subject) -> list[str]:
    """Return the dtypes to check on a backend; there are no C++ kernels for 16-bit dtypes."""
    return list(subject.types) or [n for n in _COMMON if subject.backend != "cpp" or _TYPES[n].itemsize >= 4]


def _differences(subject: Subject, name: str, check: Callable[..., Any], what: str) -> Task:
    identity = subject.identity("gradient", name)
    equations = ", ".join(subject.equation(f"backward-d{of}") for of in subject.by)
    rows = subject.variant == ""

    def run(setting: Setting) -> Outcome:
        """Run autograd's numerical check on random cases."""
        count = _CHECKED if rows else 1
        drawn = cases(subject, setting, identity, count=count, largest=_LARGEST_CHECKED)
        for case in drawn:
            check(*_function_and_inputs(case), raise_exception=True, fast_mode=not (rows or setting.full))
        return Outcome(f"{what}, with every input and parameter, at {len(drawn)} random shapes", ok=True)

    return Task(identity, subject.layer, subject.backend, "float64", equations, run)


def _function_and_inputs(case: Case) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return the module as a function of inputs and parameters, and the point to evaluate it at."""
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


@dataclass
class _Parity:
    """The comparison of a subject with its reference in one dtype, shared by the checks of all results."""

    subject: Subject
    dtype: str
    found: dict[tuple[Setting, int], tuple[dict[str, float], int]] = field(default_factory=dict)

    def task(self, what: str) -> Task:
        """Return the check of one result."""
        subject, suffix = self.subject, "" if self.dtype == "float64" else f"/{self.dtype}"
        identity = subject.identity("gradient", what) + suffix

        def run(setting: Setting) -> Outcome:
            """Return the largest error over random cases, in units of the rounding effect."""
            worst, count = self.errors(setting)
            reason = f"largest difference from the float64 reference, in units of its rounding error, {count} shapes"
            return Outcome(reason, worst[what], ROUNDINGS)

        return Task(identity, subject.layer, subject.backend, self.dtype, subject.equation(what), run)

    def errors(self, setting: Setting) -> tuple[dict[str, float], int]:
        """Return the largest error of each result and the number of instances, computed once per package."""
        key = (setting, id(target.package()))
        if key not in self.found:
            self.found[key] = self._measured(setting)
        return self.found[key]

    def _measured(self, setting: Setting) -> tuple[dict[str, float], int]:
        subject = self.subject
        source = "/".join((subject.identity("gradient", "parity"), self.dtype))
        count = _SHAPES[subject.backend] if subject.variant == "" else 6 if subject.backend == "torch" else 2
        drawn = cases(subject, setting, source, count=count, least=_LEAST, largest=8)
        generator = setting.generator(f"{source}/rounding")
        with onednn(self.dtype not in subject.without_onednn):
            every = [errors_in_roundings(subject, case, _TYPES[self.dtype], generator) for case in drawn]
        return {what: largest(errors[what] for errors in every) for what in results_of(subject)}, len(drawn)


def results_of(subject: Subject) -> tuple[str, ...]:
    """Return the names of the compared results: the output and every gradient."""
    return ("forward", *(f"backward-d{name}" for name in subject.by))


@contextmanager
def onednn(enabled: bool) -> Iterator[None]:
    """Switch torch's use of oneDNN inside the context; it stays off if it was off."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    onednn.enabled = before and enabled
    try:
        yield
    finally:
        onednn.enabled = before


def errors_in_roundings(
    subject: Subject, case: Case, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, float]:
    """Return the errors of the output and of every gradient, in units of the rounding error of the reference.

    In float64 gradients with ``create_graph`` are included, for which a layer may take another code path.
    """
    low = case.as_type(dtype)
    rounded = low.as_type(torch.float64)
    unit = torch.finfo(dtype).eps / 2
    exact = rounding_errors(lambda: by_hand(subject, rounded), unit, generator)
    modes = (False, True) if dtype is torch.float64 and subject.backend == "torch" else (False,)
    found = [by_module(subject, low, recorded=recorded) for recorded in modes]
    errors = {}
    for k, (what, (expected, change)) in enumerate(zip(results_of(subject), exact, strict=True)):
        scale, wanted = float(change.max()) if change.numel() else 0.0, expected.cpu().numpy()
        errors[what] = largest(relative_error(r[k].double().cpu().numpy(), wanted, scale=scale) for r in found)
    return errors


def by_module(subject: Subject, case: Case, *, recorded: bool = False) -> list[Tensor]:
    """Return the module's output and the gradients of ``sum(g * z)``, in the order of ``results_of``.

    ``recorded`` computes them with ``create_graph``, so that they can be differentiated again.
    """
    return _results(subject, case, lambda inputs, parameters: case.module(*inputs.values()), recorded)


def by_hand(subject: Subject, case: Case) -> list[Tensor]:
    """Return the same results of the reference."""
    reference = subject.reference
    assert reference is not None
    return _results(subject, case, lambda i, parameters: reference({**i, **case.laid(parameters)}, case), False)


def _results(
    subject: Subject, case: Case, forward: Callable[[dict[str, Tensor], Mapping[str, Tensor]], Tensor], recorded: bool
) -> list[Tensor]:
    inputs = {name: t.clone().requires_grad_(t.is_floating_point()) for name, t in case.inputs.items()}
    parameters = dict(case.module.named_parameters())
    z = forward(inputs, parameters)
    homes = {name: f"inner.{case.places[name].attribute}" for name in subject.by if name not in inputs}
    by = {**{name: inputs[name] for name in subject.by if name in inputs}, **{h: parameters[h] for h in homes.values()}}
    slopes = dict(zip(by, torch.autograd.grad(z, list(by.values()), case.g, create_graph=recorded), strict=True))
    laid = {name: case.laid({**parameters, **slopes})[name] for name in homes}
    return [z.detach(), *((slopes[name] if name in inputs else laid[name]).detach() for name in subject.by)]
