"""Sums of products, one index at a time: factors that do not depend on an index stay outside its loop.

    sum[j, k, l](A[j, k] B[k] C[j, l])   ->   sum[j](sum[k](A[j, k] B[k]) * sum[l](C[j, l]))

Each sum is planned once. Values of inner sums are cached at each point by the values of the outer indices. Values and
derivatives equal those of plain loops; the coverage of single terms (``edges``) is not recorded here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Mul

from derive.algebra.index import Index
from derive.evaluation.points import Jet, Key, Point
from derive.evaluation.positions import Environment
from derive.evaluation.reading import free_indices, is_guard

Evaluator = Callable[[Environment, Point], Jet]
_numbers = itertools.count()


@dataclass(frozen=True)
class Product:
    """Factors, each evaluated as soon as its indices have values: guards, others, and inner sums."""

    guards: tuple[Evaluator, ...]
    parts: tuple[Evaluator, ...]
    sums: tuple[Loop, ...]
    idle: tuple[Index, ...]

    def __call__(self, at: Environment, point: Point) -> Jet:
        """Return the product, guards first: what a guard excludes is never evaluated."""
        for guard in self.guards:
            if guard(at, point)[0] == 0:
                return 0, None
        found: Jet = (1, None)
        factors: Sequence[Evaluator] = (*self.parts, *self.sums)
        for part in factors:
            found = _times(found, part(at, point), point)
        for index in self.idle:
            found = _times(found, (point.size(index.size), None), point)
        return found


@dataclass(frozen=True)
class Loop:
    """A sum over one index of a product; ``around`` are the indices that its value depends on."""

    number: int
    index: Index
    around: tuple[Index, ...]
    inner: Product

    def __call__(self, at: Environment, point: Point) -> Jet:
        """Return the sum, from the point's cache if it is there."""
        key = (-self.number - 1, *[at[i] for i in self.around])
        if key not in point.kept:
            point.kept[key] = self._total(at, point)
        return point.kept[key]

    def _total(self, at: Environment, point: Point) -> Jet:
        inner = dict(at)
        value: Any = 0
        slopes: dict[Key, Any] | None = None
        for place in range(point.size(self.index.size)):
            inner[self.index] = place
            v, d = self.inner(inner, point)
            value = value + v
            if d:
                slopes = dict(d) if slopes is None else _sum_of(slopes, d)
        return point.field.tidy(value), slopes


def contraction(body: Mul, bound: Sequence[Index], compiled: Callable[[Expr], Evaluator]) -> Product:
    """Return the evaluator of the sum of a product over its bound indices."""
    return _plan([(factor, free_indices(factor)) for factor in body.args], tuple(bound), compiled)


Factors = Sequence[tuple[Expr, frozenset[Index]]]


def _plan(factors: Factors, bound: tuple[Index, ...], compiled: Callable[[Expr], Evaluator]) -> Product:
    own = frozenset(bound)
    here = [factor for factor, indices in factors if not indices & own]
    groups = _connected([(f, indices) for f, indices in factors if indices & own], own)
    used = frozenset().union(*(indices for _, indices in factors))
    return Product(
        tuple(compiled(f) for f in here if is_guard(f)),
        tuple(compiled(f) for f in here if not is_guard(f)),
        tuple(_loop(group, tuple(i for i in bound if i in names), compiled) for group, names in groups),
        tuple(i for i in bound if i not in used),
    )


def _loop(factors: Factors, bound: tuple[Index, ...], compiled: Callable[[Expr], Evaluator]) -> Loop:
    """Loop outermost over the index in most factors: the others then separate into sums of their own."""
    index = max(bound, key=lambda i: sum(i in indices for _, indices in factors))
    around = frozenset().union(*(indices for _, indices in factors)) - frozenset(bound)
    inner = _plan(factors, tuple(i for i in bound if i != index), compiled)
    return Loop(next(_numbers), index, tuple(sorted(around, key=Index.sort_key)), inner)


def _connected(factors: Factors, bound: frozenset[Index]) -> list[tuple[Factors, set[Index]]]:
    """Split factors into groups that share bound indices, each with the bound indices it uses."""
    groups: list[tuple[Factors, set[Index]]] = []
    for factor, indices in factors:
        names = set(indices & bound)
        touching = [group for group in groups if group[1] & names]
        groups = [group for group in groups if not group[1] & names]
        merged = [f for group in touching for f in group[0]]
        groups.append(([*merged, (factor, indices)], names.union(*(group[1] for group in touching))))
    return groups


def _times(left: Jet, right: Jet, point: Point) -> Jet:
    (v, d), (w, e), tidy = left, right, point.field.tidy
    if not d and not e:
        return tidy(v * w), None
    slopes = {key: tidy(slope * w) for key, slope in d.items()} if d else {}
    return tidy(v * w), _sum_of(slopes, {key: tidy(v * slope) for key, slope in e.items()}) if e else slopes


def _sum_of(slopes: dict[Key, Any], more: dict[Key, Any]) -> dict[Key, Any]:
    """Add slopes to existing ones, in place."""
    for key, slope in more.items():
        slopes[key] = slopes.get(key, 0) + slope
    return slopes
