"""Stated properties of the cancelling maps of a layer from a file, measured on the generated module.

self-factor         each output's squared gradient norm over all parameters is kappa, for inputs from 1e-30 to 1e30
scale-invariance    whether z(3x) = z(x), with all real inputs scaled together
initialisation      the standard deviation of initial weights
batch               samples do not influence each other (``properties``)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from derive.record import CancellingMap
from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest, relative_error
from verify.checks.layer_files.sides import sides, values_of
from verify.checks.layer_files.subjects import plain_value
from verify.checks.properties import BOUND, DEVIATION_BOUND, LEAST_CHANGE, batch_task
from verify.checks.record import Outcome, Setting, Task

_INSTANCES = 4
_STRETCHES = (1e-30, 1e-3, 1.0, 1e3, 1e30)
_FRESH = 20_000  # initial weights from which a standard deviation is estimated


def tasks(subject: Subject) -> list[Task]:
    """Return the checks of one class of the package, for the torch backend only."""
    if subject.backend != "torch":
        return []
    if not subject.generated:
        return [batch_task(subject)]
    return [_self_factor(subject), _scale_invariance(subject), _initialisation(subject), batch_task(subject)]


def _found(subject: Subject) -> CancellingMap:
    found = subject.source().found
    assert found is not None
    return found


def _self_factor(subject: Subject) -> Task:
    identity = subject.identity("property", "self-factor")

    def run(setting: Setting) -> Outcome:
        """Return the largest relative error of the squared gradient norms."""
        drawn = cases(subject, setting, identity, count=_INSTANCES, least=1, largest=4)
        errors = [error for case in drawn for error in _length_errors(subject, case)]
        reason = f"|dz/dparameters|^2 of each output against kappa, by autograd, {len(errors)} shapes and magnitudes"
        return (
            Outcome(reason, largest(errors), BOUND) if errors else Outcome("the layer is undefined at every magnitude")
        )

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("solution"), run)


def _length_errors(subject: Subject, case: Case) -> Iterator[float]:
    """Yield the error at every input scale at which the uncorrected layer's gradient norms are finite and positive."""
    for by in _STRETCHES:
        stretched = _stretched(case, by)
        values = values_of(stretched)
        names = list(stretched.places)
        energy = _squares(lambda v, c=stretched: plain_value(subject.source(), v, c), values, names)
        if not bool(torch.isfinite(energy).all()) or not bool((energy > 0).all()):
            continue
        squares = _squares(sides(subject, stretched)[0], values, names)
        yield float((squares / case.kappa - 1).abs().max())


def _squares(side: object, values: dict[str, Tensor], names: list[str]) -> Tensor:
    """Return the sum of the squared derivatives of each output with respect to every parameter."""

    def function(*parameters: Tensor) -> Tensor:
        z: Tensor = side({**values, **dict(zip(names, parameters, strict=True))})  # type: ignore[operator]
        return z

    slopes = torch.autograd.functional.jacobian(function, tuple(values[name] for name in names))
    axes = function(*(values[name] for name in names)).dim()
    return torch.stack([s.square().flatten(axes).sum(-1) for s in slopes]).sum(0)


def _stretched(case: Case, by: float) -> Case:
    return replace(case, inputs={n: by * t if t.is_floating_point() else t for n, t in case.inputs.items()})


def _scale_invariance(subject: Subject) -> Task:
    identity = subject.identity("property", "scale-invariance")

    def run(setting: Setting) -> Outcome:
        """Return the change when all real inputs are scaled, or whether there is one if the map is not invariant."""
        stated = _found(subject).established("scale_invariant")
        if stated.value is None:
            return Outcome(f"open: {stated.reason}")
        drawn = cases(subject, setting, identity, count=_INSTANCES, least=2, largest=4)
        with torch.no_grad():
            pairs = [(case().cpu().numpy(), _stretched(case, 3.0)().cpu().numpy()) for case in drawn]
        changes = [relative_error(after, before) for before, after in pairs]
        if stated.value:
            return Outcome("change when the inputs are scaled", largest(changes), BOUND)
        return Outcome("the output changes when the inputs are scaled", ok=largest(changes) >= LEAST_CHANGE)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("forward"), run)


def _initialisation(subject: Subject) -> Task:
    identity = subject.identity("property", "initialisation")

    def run(setting: Setting) -> Outcome:
        """Return the relative error of the standard deviation of initial weights; offsets start at zero."""
        (case,) = cases(subject, setting, identity, count=1, least=2, largest=4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed_of(identity))
            fresh = _fresh(case)
        scale = _found(subject).weight_scale
        numbers = {s: case.sizes[s.name] for s in scale.free_symbols if s.name in case.sizes}
        expected = float(scale.subs({**numbers, _found(subject).kappa: case.kappa}))
        measured = abs(float(fresh.square().mean().sqrt()) / expected - 1) if len(fresh) else math.inf
        return Outcome("standard deviation of initial weights", measured, DEVIATION_BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("solution"), run)


def _fresh(case: Case) -> Tensor:
    """Return many initial values of the parameters that do not start at zero."""
    inner, seen, count = case.module.inner, [], 0
    while count < _FRESH:
        inner.reset_parameters()  # type: ignore[operator, union-attr]
        drawn = [p.detach().flatten().clone() for p in case.parameters().values() if p.detach().any()]
        if not drawn:
            return torch.zeros(0)
        seen += drawn
        count += sum(t.numel() for t in drawn)
    return torch.cat(seen)
