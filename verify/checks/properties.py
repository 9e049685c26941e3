"""Properties of a cancelling map, measured on the module; the expected values are read from the solved map.

The properties:

scale-invariance    whether z(3x) = z(x)
injectivity         the rank of dz/dx: that of the uncorrected map, minus one for each lost length
bound               |z_k| <= sqrt(kappa) ||(W_k, b_k)||, at inputs from 1e-30 to 1e30
limit-zero          as x -> 0: the limits of the map's scales f(E), h(E), or of sqrt(E) f(E) if f has none
limit-infinity      as ||x|| -> infinity: the limits of sqrt(E) f(E) and h(E)
initialisation      the standard deviation of an initial weight
tokens              reordering tokens inside a sample reorders its outputs, or changes nothing
batch               reordering samples reorders outputs; a batch gives the same outputs in two halves
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import sympy
import torch
from sympy import Expr

from derive.algebra.differentiate import expand_definitions
from derive.algebra.nodes import tensor
from derive.properties import energy_symbol
from derive.record import CancellingMap, Derivation
from verify.checks.cases import Case, Subject, cases
from verify.checks.compare import largest, relative_error
from verify.checks.evaluate import Array, Point, evaluate
from verify.checks.record import Outcome, Setting, Task

BOUND = 1e-12
_INSTANCES = 4
_NEAR, _FAR = 1e-18, 1e18
LEAST_CHANGE = 1e-6
_STRETCHES = (1e-30, 1e-3, 1.0, 1e3, 1e30)
_FRESH_WEIGHTS = 20_000
DEVIATION_BOUND = 0.05  # ten standard errors of a standard deviation estimated from this many weights
Measure = Callable[[CancellingMap, Case], float]


def tasks(subject: Subject) -> list[Task]:
    """Return the tasks of one generated map, with the batch task if its samples are independent."""
    if "property" not in subject.families or subject.backend in ("triton", "cuda", "cpp"):
        return []
    names = subject.measures or (tuple(_MEASURES) if subject.generated else ())
    found = [_task(subject, name, *_MEASURES[name]) for name in names]
    found += [] if subject.symmetry is None else [_tokens(subject, subject.symmetry)]
    return [*found, batch_task(subject)] if subject.samples_apart else found


def _task(subject: Subject, name: str, equation: str, measure: Measure, bound: float, reason: str) -> Task:
    identity = subject.identity("property", name)

    def run(setting: Setting) -> Outcome:
        """Return the largest departure from the property over random cases."""
        found = subject.source().found
        assert found is not None
        count = 1 if name in ("injectivity", "initialisation") else _INSTANCES
        drawn = cases(subject, setting, identity, count=count, least=2, largest=6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.seed_of(identity))
            return Outcome(reason, measured=largest(measure(found, case) for case in drawn), bound=bound)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation(equation), run)


def batch_task(subject: Subject) -> Task:
    """Return the check that samples do not influence each other."""
    identity = subject.identity("property", "batch")

    def run(setting: Setting) -> Outcome:
        """Return how much the outputs depend on the samples' order or on other samples."""
        drawn = cases(subject, setting, identity, count=_INSTANCES, largest=6)
        reason = "reordering samples reorders outputs, and splitting the batch does not change them"
        return Outcome(reason, measured=largest(_batch_error(case) for case in drawn), bound=BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("forward"), run)


def _tokens(subject: Subject, departure: Callable[[Case], float]) -> Task:
    identity = subject.identity("property", "tokens")

    def run(setting: Setting) -> Outcome:
        """Return the departure from the symmetry under reordering tokens."""
        drawn = cases(subject, setting, identity, count=_INSTANCES, largest=6)
        reason = "reordering the queries reorders outputs, reordering keys and values changes nothing"
        return Outcome(reason, measured=largest(map(departure, drawn)), bound=BOUND)

    return Task(identity, subject.layer, subject.backend, "float64", subject.equation("forward"), run)


def _batch_error(case: Case) -> float:
    flipped = {name: t.flip(0) for name, t in case.inputs.items()}
    turned = replace(case, inputs={n: 2 * t if t.is_floating_point() else t for n, t in flipped.items()})
    beside = replace(case, inputs={n: torch.cat([case.inputs[n], turned.inputs[n]]) for n in case.inputs})
    z = _value(case)
    reordered = relative_error(_value(replace(case, inputs=flipped)), np.flip(z, 0))
    return max(reordered, relative_error(_value(beside), np.concatenate([z, _value(turned)])))


def _value(case: Case) -> Array:
    with torch.no_grad():
        return np.asarray(case().cpu().numpy())


def _input(case: Case) -> str:
    """Return the input whose length the map uses: the last one; any before it are mixture weights."""
    return list(case.inputs)[-1]


def _stretched(case: Case, by: float) -> Case:
    return replace(case, inputs={**case.inputs, _input(case): by * case.inputs[_input(case)]})


def _scale_invariance(found: CancellingMap, case: Case) -> float:
    """Return the change when the input is scaled, or, for a map that is not invariant, what the change lacks."""
    change = relative_error(_value(_stretched(case, 3.0)), _value(case))
    if found.scale_invariant:
        return change
    return 0.0 if change >= LEAST_CHANGE else math.inf


def _injectivity(found: CancellingMap, case: Case) -> float:
    """Return the error of the rank of dz/dx at one sample; a normaliser loses one dimension for each length.

    The outputs for many random weights at the same input are stacked, so that too few outputs cannot limit the rank.
    """
    one = replace(case, inputs={name: t[:1] for name, t in case.inputs.items()}, g=case.g[:1])
    one = replace(one, sizes={**case.sizes, "B": 1})
    width = one.inputs[_input(one)].numel()
    axes = found.mapped.output.indices
    last = tuple(-1 if axis in _samples(found) else slice(None) for axis in axes)
    mapped, parts = [], []
    for _ in range(math.ceil((min(width, 40) + 1) / max(1, _value(one)[last].size))):
        with torch.no_grad():
            for parameter in one.module.parameters():
                parameter.normal_()
        mapped.append(_jacobian(one, last).reshape(-1, width))
        parts.append(_uncorrected(found, one, last).reshape(width, -1).T)
    lost = _lengths(found, one) if found.kind == "normalising" and not found.injective else 0
    expected = _rank(np.concatenate(parts)) - lost
    return float(abs(_rank(np.concatenate(mapped)) - expected))


def _lengths(found: CancellingMap, case: Case) -> int:
    """Return the number of lengths that divide a sample's output: one, or one for each group."""
    point, samples = case.point(found.mapped), _samples(found)
    return math.prod(point.size(axis) for axis in found.energy.indices if axis not in samples)


def _samples(found: CancellingMap) -> tuple[object, ...]:
    return _derivation(found).samples


def _derivation(found: CancellingMap) -> Derivation:
    from derive.update import effective_update

    return effective_update(found.mapped)


def _jacobian(case: Case, last: tuple[object, ...]) -> Array:
    """Return dz/dx of one sample's outputs."""
    name = _input(case)

    def function(x: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = case.module(*{**case.inputs, name: x}.values())
        return z[last].flatten()  # type: ignore[index]

    jacobian = torch.autograd.functional.jacobian(function, case.inputs[name])
    return np.asarray(jacobian.cpu().numpy())


def _uncorrected(found: CancellingMap, case: Case, last: tuple[object, ...]) -> Array:
    """Return one sample's uncorrected output without offset at every unit vector of the input, from the derivation."""
    name, x = _input(case), case.inputs[_input(case)]
    width = x.numel()
    units = torch.eye(width, dtype=x.dtype, device=x.device).reshape(width, *x.shape[1:])
    others = {n: t.expand(width, *t.shape[1:]) for n, t in case.inputs.items() if n != name}
    many = replace(case, inputs={**others, name: units}, sizes={**case.sizes, "B": width})
    part = _part(found, many.point(found.layer), offset=False)
    picked: tuple[Any, ...] = (slice(None), *last[1:])
    return np.asarray(part[picked])


def _rank(matrix: Array) -> int:
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > 1e-9 * singular.max()).sum())


def _part(found: CancellingMap, point: Point, *, offset: bool) -> Array:
    """Return the part of the uncorrected output that comes from the weights, or the part from the offset."""
    silent = "W" if offset else "b"
    tensors = {name: np.zeros_like(a) if name == silent else a for name, a in point.tensors.items()}
    scope = {d.name: d for d in found.layer.definitions}
    output = found.layer.output
    return evaluate(output.expression, output.indices, replace(point, tensors=tensors, scope=scope))


def _bound(found: CancellingMap, case: Case) -> float:
    """Return the largest excess of ``|z_k|`` over its bound, relative to the bound, over all input scales."""
    squares: Array = np.zeros(1)
    for name, values in case.parameters().items():
        squares = squares + _over_units(found, name, values.detach().cpu().numpy() ** 2)
    limit = math.sqrt(case.kappa) * np.sqrt(squares)
    excess = (float((np.abs(_value(_stretched(case, by))) / limit).max()) for by in _STRETCHES)
    return max(0.0, largest(excess) - 1)


def _over_units(found: CancellingMap, name: str, squares: Array) -> Array:
    """Return a parameter's squares summed over axes that index no unit, broadcast along the output's axes."""
    written = expand_definitions(found.layer.output.expression, found.layer.scope)
    entry = next(e for e in written.atoms(sympy.Indexed) if e.base == tensor(name))
    units = {axis.name: axis for axis in _derivation(found).units}
    kept = [getattr(index, "name", "") for index in entry.indices]
    total = squares.sum(axis=tuple(k for k, letter in enumerate(kept) if letter not in units))
    order = [letter for letter in kept if letter in units]
    axes = [axis.name for axis in found.mapped.output.indices]
    total = total.transpose([order.index(letter) for letter in axes if letter in order])
    sizes = iter(total.shape)
    return np.asarray(total.reshape([next(sizes) if letter in order else 1 for letter in axes]))


def _scales(found: CancellingMap) -> tuple[Expr, Expr]:
    """Return f(E) and h(E), the scales of the weight part and of the offset part."""
    scales = dict(found.scales)
    return scales["W"], scales.get("b", sympy.S.Zero)


def _limit(found: CancellingMap, expression: Expr, at: Expr, case: Case) -> float:
    return float(sympy.limit(expression, energy_symbol, at, "+" if at == 0 else "-").subs(found.kappa, case.kappa))


def _directed(found: CancellingMap, case: Case, at: Expr) -> Array:
    """Return the limiting output, which depends only on the input's direction and the offset."""
    f, h = _scales(found)
    point = case.point(found.mapped)
    length = np.sqrt(evaluate(found.energy.entry, found.mapped.output.indices, point))
    with np.errstate(invalid="ignore"):  # an all-zero patch has no direction
        direction = _part(found, point, offset=False) / length
    pull = _limit(found, sympy.sqrt(energy_symbol) * f, at, case)
    return np.asarray(pull * direction + _limit(found, h, at, case) * _part(found, point, offset=True))


def _limit_infinity(found: CancellingMap, case: Case) -> float:
    """Return the error of the output for large inputs; an all-zero patch, which has no direction, is left out."""
    expected = _directed(found, case, sympy.oo)
    seen = np.isfinite(expected)
    return relative_error(_value(_stretched(case, _FAR))[seen], expected[seen])


def _limit_zero(found: CancellingMap, case: Case) -> float:
    """Return the error of the output for small inputs; weight and offset parts separately if both remain."""
    near = _stretched(case, _NEAR)
    if found.singular_at_zero:
        return relative_error(_value(near), _directed(found, case, sympy.S.Zero))
    f, h = _scales(found)
    point = case.point(found.mapped)
    offset = _limit(found, h, sympy.S.Zero, case) * _part(found, point, offset=True)
    slope = _limit(found, f, sympy.S.Zero, case) * _part(found, point, offset=False)
    bare = replace(near, module=copy.deepcopy(near.module))
    with torch.no_grad():
        bare.parameters()["b"].zero_()
    return max(relative_error(_value(near), offset), relative_error(_value(bare) / _NEAR, slope))


def _initialisation(found: CancellingMap, case: Case) -> float:
    """Return the relative error of the standard deviation of many initial weights."""
    module = copy.deepcopy(case.module)
    path, _, name = f"inner.{case.places['W'].attribute}".rpartition(".")
    home, weight = module.get_submodule(path), module.get_parameter(f"{path}.{name}")
    rows = weight.shape[0] * math.ceil(_FRESH_WEIGHTS / weight.numel())
    setattr(home, name, torch.nn.Parameter(weight.detach().new_empty(rows, *weight.shape[1:])))
    module.inner.reset_parameters()  # type: ignore[operator, union-attr]
    deviation = float(getattr(home, name).detach().square().mean().sqrt())
    expected = float(found.weight_scale.subs(found.kappa, case.kappa))
    return abs(deviation / expected - 1)


_MEASURES: dict[str, tuple[str, Measure, float, str]] = {
    "scale-invariance": (
        "forward",
        _scale_invariance,
        BOUND,
        "change when the input is scaled",
    ),
    "injectivity": (
        "forward",
        _injectivity,
        0.0,
        "rank of dz/dx against that of the solved map",
    ),
    "bound": ("solution", _bound, BOUND, "excess of |z_k| over sqrt(kappa) ||(W_k, b_k)||, inputs from 1e-30 to 1e30"),
    "limit-zero": ("define-f", _limit_zero, BOUND, "error for small inputs against the limits of the solved scales"),
    "limit-infinity": (
        "define-f",
        _limit_infinity,
        BOUND,
        "error for large inputs against the limits of the solved scales",
    ),
    "initialisation": (
        "solution",
        _initialisation,
        DEVIATION_BOUND,
        "standard deviation of initial weights",
    ),
}
