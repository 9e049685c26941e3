"""If no map cancels a divergence: what comes closest, each with the residual that remains, the smallest first.

    solve-units       h = K_ss^-1 g            every sample's gradient solved against its own kernel; the map unchanged
    divide-units      h = g/K_ss               the same where the kernel is diagonal: NLMS unit by unit
    divide-mean       h = g/t                  NLMS with the mean over units, t = mean of K_ss over its diagonal
    scale-mean        z~ = z/sqrt(t)           the map divided by the root of t, which the step holds fixed
    scale-units       z~ = z/sqrt(K_ss)        the same unit by unit, where the kernel is diagonal
    scale-isotropic   z~ = z/sqrt(k)           k is the part of K_ss that is the same for every unit

``stop_gradient`` marks what a step holds fixed, without a gradient: the statements are of first order in eta. The
residual of a remedy is ``c K_ss - I``. Its size is measured at random small points by independent evaluation, as the
root mean square of ``|c K_ss - I|/sqrt(m)`` over samples, each remedy (and the layer as it is) at its best rate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby
from typing import Any

import sympy
from sympy import Add, Expr, KroneckerDelta, Mul

from derive.algebra.differentiate import expand_definitions
from derive.algebra.eliminate import free_indices
from derive.algebra.equality import equal
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.algebra.reductions import Stopped
from derive.deriver import Deriver
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import REAL
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point, Spread
from derive.evaluation.reference import Reference
from derive.forward_map import BATCH, Definition, Layer
from derive.record import Step

_SEEDS = (1, 2, 3)
_AXIS, _SAMPLES = 3, 2
_ROUNDING = 1e-30  # of decimals of 60 digits
Matrix = list[list[Any]]


@dataclass(frozen=True)
class Remedy:
    """One remedy: ``divisor`` is what the self factor is divided by, ``residual`` what remains of ``K/c - I``.

    ``size`` is the residual's size at random points, None where it was not measured; ``steps`` show the self factor of
    a scaled map. ``changes_map`` says whether the forward map changes.
    """

    name: str
    says: str
    divisor: Expr | None
    residual: Expr
    changes_map: bool
    size: float | None = None
    steps: tuple[Step, ...] = ()


def remedies(layer: Layer) -> tuple[Remedy, ...]:
    """Return what comes closest to cancelling a layer's divergence, the smallest residual first; exact remedies have 0.

    The last entry, ``nothing``, is the layer as it is. For long maps (``derive.chained``) only remedies that keep the
    output are returned. Raises LayerError for a layer without parameters.
    """
    from derive.chained import is_long
    from derive.update import deriver as deriver_of

    deriver, long = deriver_of(layer), is_long(layer)
    factor, mean = deriver.classify(), mean_over_units(deriver)
    unit = Mul(*(KroneckerDelta(i, deriver.primes[i]) for i in deriver.units))
    entry = factor.expression if factor.shape == "full" else unit * factor.expression
    found = [
        _exact(factor.shape),
        Remedy("divide-mean", "divide each sample's gradient by the mean over units", mean, entry / mean - unit, False),
    ]
    if not long:  # a scaled output needs a new derivation, which only short maps allow
        says = "divide the output by the root of the mean over units"
        found.append(_scaled(deriver, "scale-mean", says, mean, entry, unit))
    if factor.shape == "diagonal" and not long:
        says = "divide every unit by the root of its own self factor"
        found.append(_scaled(deriver, "scale-units", says, factor.expression, entry, unit))
    isotropic = None if long else _isotropic(deriver, entry)
    if isotropic is not None:
        says = "divide the output by the root of the part that is the same for every unit"
        found.append(_scaled(deriver, "scale-isotropic", says, isotropic, entry, unit))
    nothing = Remedy("nothing", "the layer as it is", None, entry - unit, False)
    sizes = {r.name: _size(deriver, r) for r in (*found, nothing)}
    measured = [replace(remedy, size=sizes[remedy.name]) for remedy in (*found, nothing)]
    return tuple(sorted(measured, key=lambda r: (r.size is None, round(r.size or 0.0, 9), r.changes_map)))


def _exact(shape: str) -> Remedy:
    if shape == "full":
        says = "solve each sample's gradient against its own self factor, a matrix over units"
        return Remedy("solve-units", says, None, sympy.S.Zero, False)
    return Remedy("divide-units", "divide each unit's gradient by its self factor", None, sympy.S.Zero, False)


def mean_over_units(deriver: Deriver) -> Expr:
    """Return the mean of the self factor over units: the trace divided by the number of units."""
    same = {deriver.primes[i]: i for i in deriver.output.indices}
    diagonal = normalise(rename(deriver.unfactored_kernel, same))
    count = Mul(*(i.size for i in deriver.units))
    return presentable(normalise(IndexedSum(diagonal, *deriver.units) / count), deriver.shown)


def _isotropic(deriver: Deriver, entry: Expr) -> Expr | None:
    """Return the coefficient of the unit deltas that depends on no unit, if there is one and other terms remain."""
    deltas = {KroneckerDelta(i, deriver.primes[i]) for i in deriver.units}
    units = {*deriver.units, *(deriver.primes[i] for i in deriver.units)}
    terms = Add.make_args(sympy.expand(entry, deep=False)) if deltas else ()
    alike = [t for t in terms if deltas <= set(Mul.make_args(t))]
    alike = [Mul(*(f for f in Mul.make_args(t) if f not in deltas)) for t in alike]
    alike = [t for t in alike if not free_indices(t) & units and t.is_nonnegative is not False]
    total = Add(*alike)
    return presentable(total, deriver.layer.scope) if alike and len(alike) < len(terms) else None


def _scaled(deriver: Deriver, name: str, says: str, divisor: Expr, entry: Expr, unit: Expr) -> Remedy:
    """Return the map divided by a root that the step holds fixed, with its self factor derived anew."""
    layer = deriver.layer
    indices = tuple(i for i in layer.output.indices if i in free_indices(divisor)) or (BATCH,)
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in layer.definitions}
    label = next(n for n in ("t_held", "t_held_2", "t_held_3") if n not in used)
    held = Definition(label, indices, divisor)
    output = layer.output.expression * Stopped(1 / sympy.sqrt(held.entry))
    definitions = (*layer.definitions, held)
    mapped = replace(layer.with_output(output), name=f"{layer.name}/{name}", definitions=definitions, groups=())
    derived = Deriver(mapped)
    factor = derived.classify()
    scaled = factor.expression if factor.shape == "full" else unit * factor.expression
    other = rename(held.entry, {i: deriver.primes[i] for i in deriver.units})
    expected = entry / sympy.sqrt(held.entry) / sympy.sqrt(other)
    assert equal(_opened(scaled, held), _opened(expected, held)), f"{mapped.name}: not the scaled self factor"
    residual = sympy.S.Zero if name == "scale-units" else entry / divisor - unit
    return Remedy(name, says, divisor, residual, True, steps=(derived.self_factor_step(factor),))


def _opened(expression: Expr, held: Definition) -> Expr:
    """Return an expression without ``stop_gradient``, which changes no value, and with the divisor written out."""
    plain = expression.replace(lambda e: isinstance(e, Stopped), lambda e: e.args[0])
    return expand_definitions(plain, {held.base: held})


def _size(deriver: Deriver, remedy: Remedy) -> float | None:
    """Return the size of a residual at random small points; None where nothing can be evaluated."""
    if remedy.name in ("solve-units", "divide-units"):
        return 0.0
    with REAL.context():
        kernels = [kernel for seed in _SEEDS for kernel in _divided(deriver, remedy, seed)]
        if not kernels:
            return None
        rate = _best_rate(kernels)
        total = Decimal(0)
        for kernel in kernels:
            cells = ((i, j, value) for i, row in enumerate(kernel) for j, value in enumerate(row))
            total += sum((value / rate - int(i == j)) ** 2 for i, j, value in cells) / len(kernel)
        size = float((total / len(kernels)).sqrt())
        return 0.0 if size < _ROUNDING else size


def _best_rate(kernels: list[Matrix]) -> Decimal:
    """Return the number that brings all kernels, divided by it, closest to the identity."""
    squares = sum((Decimal(v) ** 2 for k in kernels for row in k for v in row), Decimal(0))
    traces = sum((Decimal(k[i][i]) for k in kernels for i in range(len(k))), Decimal(0))
    return squares / traces


def _divided(deriver: Deriver, remedy: Remedy, seed: int) -> list[Matrix]:
    """Return the divided self factor of every sample at a point; entries have either sign, else only positive ones."""
    for positive in (False, True):
        try:
            return _matrices(deriver, remedy.divisor, seed, positive)
        except NotEvaluable:
            continue
    return []


def _matrices(deriver: Deriver, divisor: Expr | None, seed: int, positive: bool) -> list[Matrix]:
    """Return the self factor of every sample at a point as a matrix over units, divided by roots of the divisor."""
    layer = deriver.layer
    sizes = {s: _AXIS if s.is_positive else 0 for s in layer.sizes if s.is_Symbol}
    sizes[BATCH.size] = _SAMPLES
    scope = {d.base: d for d in layer.definitions}
    plain = Point(seed, sizes, REAL, scope, spread=Spread(positive=positive))
    reference = Reference.at(layer, plain)
    indices = layer.output.indices
    at_sample = [k for k, i in enumerate(indices) if i in deriver.samples]

    def sample(place: tuple[int, ...]) -> tuple[int, ...]:
        """Return the part of a place that says which sample it is."""
        return tuple(place[k] for k in at_sample)

    found = []
    for _, places in groupby(sorted(reference.places, key=sample), key=sample):
        units = list(places)
        by = [Decimal(evaluate(divisor or sympy.S.One, _at(indices, place), reference.point)) for place in units]
        if any(value <= 0 for value in by):
            raise NotEvaluable("a divisor is not positive")
        both = list(zip(units, by, strict=True))
        found.append([[Decimal(reference.kernel(a, b)) / (p * q).sqrt() for b, q in both] for a, p in both])
    if not any(value for kernel in found for row in kernel for value in row):
        raise NotEvaluable("the self factor is zero")
    return found


def _at(indices: tuple[Index, ...], place: tuple[int, ...]) -> dict[Index, int]:
    return dict(zip(indices, place, strict=True))
