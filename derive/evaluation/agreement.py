"""Test whether two expressions agree: evaluate both, unchanged, at several random small sizes."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from sympy import Expr, Integer, Rational, Symbol

from derive.algebra.index import Index
from derive.evaluation.edges import edges
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import DIVISION, MODULAR, ORDERED, Field
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point, Spread, Witness
from derive.evaluation.positions import Environment
from derive.evaluation.reading import Meter, Scope, field_for, free_indices
from derive.evaluation.sizes import DEAREST, Sizes

if TYPE_CHECKING:
    from derive.forward_map import Definition

_LEAST = 3
_ATTEMPTS = 100
_FEW_ENTRIES, _MANY_ENTRIES = 12, 40
_SMALL, _LARGE = Rational(1, 8), Integer(40)
SPREADS = (
    Spread(),
    Spread(positive=True),
    Spread(scale=_SMALL),
    Spread(positive=True, scale=_SMALL),
    Spread(positive=True, scale=_LARGE),
)


class Patience(Protocol):
    """Reports whether there is time for more."""

    def over(self) -> bool:
        """Return whether the time is up."""


class Endless:
    """A time limit that is never reached."""

    def over(self) -> bool:
        """Return False: there is always time for more."""
        return False


@dataclass(frozen=True)
class Sides:
    """Two expressions stated to be equal, with the intermediates that they may mention; ``name`` is for reports."""

    name: str
    before: Expr
    after: Expr
    definitions: tuple[Definition, ...] = ()

    @property
    def scope(self) -> Scope:
        """The intermediates by their tensor."""
        return {definition.base: definition for definition in self.definitions}


@dataclass(frozen=True)
class Agreement:
    """The outcome of an evaluation: where both sides agreed, a counterexample, or why nothing could be evaluated."""

    agreed: str = ""
    counterexample: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Effort:
    """How long to test: ``points`` must agree, and if ``thorough`` they must hit every edge.

    The search for edges ends after ``patience`` points without a new one.
    """

    points: int
    patience: int
    thorough: bool


FEW, MANY = Effort(3, 2, False), Effort(10, 16, True)


def agreement(sides: Sides, seed: int, effort: Effort, patience: Patience | None = None) -> Agreement:
    """Evaluate both sides at several points, until the points have shown enough.

    At size one every delta is 1, a sum has one term and a tangent projection is zero, so agreement there means little.
    Therefore every size must have been larger than one, and if nothing is proved, both sides of every edge must have
    been hit (``edges``). Points where a denominator vanishes are skipped, for instance a centred patch of one entry,
    which has no energy. Sizes forced above one may themselves make that patch small, so every second point after such a
    failure is drawn freely. Where entries leave the domain of a root or a logarithm, later ones are positive, smaller
    or larger.
    """
    patience = patience or Endless()
    field = field_for([sides.before, sides.after], sides.scope)
    sizes, meter = _sizes(sides), Meter([sides.before, sides.after], sides.scope)
    small, unseen = set(sizes.symbols), _edges(sides) if effort.thorough else set()
    agreed, newest, strayed, reason, vanished = 0, 0, 0, "", False
    for attempt in range(_ATTEMPTS):
        if patience.over():
            reason = reason or "the time limit ran out"
            break
        kept = set() if vanished and attempt % 2 else small
        dearest = DEAREST * 2 ** min(max(agreed - 1, 0), 3) if small or unseen else DEAREST
        drawn = sizes.draw(kept, seed * 1000 + attempt, _volume(attempt - agreed), meter, dearest)
        spread = SPREADS[strayed % len(SPREADS)]
        point = _point(sides, seed * 1000 + attempt, drawn, field, unseen if effort.thorough else None, spread)
        with field.context():
            found = _compare(sides, point)
        if found.counterexample:
            return Agreement(counterexample=f"{found.counterexample} ({field.name}, seed {point.seed})")
        reason, vanished = found.reason or reason, found.reason == DIVISION
        strayed += bool(found.reason) and not vanished
        if found.entries:
            agreed += 1
            shown = {s for s, size in drawn.items() if size > sizes.least(s)} | (point.witnessed or set())
            newest = agreed if shown & (unseen | small) else newest
            small, unseen = small - shown, unseen - shown
        if agreed >= effort.points and (not (small or unseen) or agreed >= newest + effort.patience):
            break
    if agreed >= _LEAST:
        return Agreement(agreed=f"{agreed} random sizes, {field.name}{never_larger(small)}")
    return Agreement(reason=f"not evaluable: {reason}")


def _sizes(sides: Sides) -> Sizes:
    expressions = (sides.before, sides.after, *(d.expression for d in sides.definitions))
    return Sizes.of(expressions, (i.size for d in sides.definitions for i in d.indices))


def _point(
    sides: Sides, seed: int, drawn: dict[Symbol, int], field: Field, wanted: set[Any] | None, spread: Spread
) -> Point:
    """Return the point of the comparison; it records which of the wanted edges it hits, unless that is None."""
    if wanted is not None:
        return Point(seed, drawn, field, sides.scope, spread=spread, witnessed=set(), wanted=frozenset(wanted))
    return _shared(seed, tuple(drawn.items()), field, sides.definitions, spread)


@lru_cache(maxsize=128)
def _shared(
    seed: int, sizes: tuple[tuple[Symbol, int], ...], field: Field, definitions: tuple[Definition, ...], spread: Spread
) -> Point:
    """Return a point; sides with the same scope share it, so that intermediates are evaluated once."""
    return Point(seed, dict(sizes), field, {d.base: d for d in definitions}, spread=spread)


def _volume(failed: int) -> int:
    """Bound the product of the axes: after many failed evaluations, later points are smaller."""
    return 200 if failed < 8 else 16 if failed < 16 else (6, 4, 3, 2)[failed % 4]


def _edges(sides: Sides) -> set[Witness]:
    """Return the edges of both sides, and every two free indices of one range: they must have differed somewhere."""
    indices = sorted(free_indices(sides.before) | free_indices(sides.after), key=Index.sort_key)
    alike = {pair for pair in itertools.combinations(indices, 2) if pair[0].size == pair[1].size}
    return edges(sides.before) | edges(sides.after) | alike


@dataclass(frozen=True)
class _Outcome:
    """The result at one point: entries that agree, the first that differs, and why others could not be evaluated."""

    entries: int
    counterexample: str = ""
    reason: str = ""


def _compare(sides: Sides, point: Point) -> _Outcome:
    """Evaluate both sides at every chosen value of the free indices; skip entries without a value."""
    entries, reason = 0, ""
    for at in _environments(sides, point):
        try:
            left, right = evaluate(sides.before, at, point), evaluate(sides.after, at, point)
        except (NotEvaluable, ArithmeticError) as problem:
            reason = str(problem) or type(problem).__name__
            if entries == 0:
                break
            continue
        if not point.field.same(left, right):
            return _Outcome(entries, f"{sides.name}: {_difference(sides, at, point, left, right)}")
        entries += 1
        if point.witnessed is not None and left:
            point.witnessed |= {(i, j) for i, j in itertools.combinations(at, 2) if at[i] != at[j]}
    return _Outcome(entries, "", reason)


def _difference(sides: Sides, at: Environment, point: Point, left: object, right: object) -> str:
    """Describe a counterexample: where, at which sizes, and both values; those of a prime field as fractions."""
    if point.field is MODULAR:
        fractions = replace(point, field=ORDERED, memory={}, kept={}, nudges={}, constants={}, witnessed=None)
        left, right = evaluate(sides.before, at, fractions), evaluate(sides.after, at, fractions)
    where = ", ".join(f"{i.name}={v}" for i, v in at.items()) or "the only entry"
    return f"the sides differ at {where} for {shown_sizes(point)}: {shown(left)} and {shown(right)}"


def never_larger(symbols: Iterable[Symbol]) -> str:
    """Return the words for sizes that exceeded their least value at no point; an empty string if there are none."""
    names = ", ".join(sorted(str(s) for s in symbols))
    return f"; at the least {names} alone" if names else ""


def shown(value: Any) -> str:
    """Return a number in readable form."""
    return f"{float(value):.6g}"


def shown_sizes(point: Point) -> str:
    """Return the sizes of a point in readable form."""
    return ", ".join(f"{s}={v}" for s, v in point.sizes.items()) or "no sizes"


def _environments(sides: Sides, point: Point) -> Iterator[Environment]:
    """Yield assignments of the free indices: all of them, or a random selection that favours equal primed pairs."""
    indices = sorted(free_indices(sides.before) | free_indices(sides.after), key=Index.sort_key)
    most = _FEW_ENTRIES if point.witnessed is None else _MANY_ENTRIES
    yield from assignments(indices, point, most)


def assignments(indices: Sequence[Index], point: Point, most: int) -> Iterator[Environment]:
    """Yield values of indices: all, or ``most`` random ones in which an index often equals its primed partner."""
    ranges = [range(point.size(i.size)) for i in indices]
    if math.prod(len(r) for r in ranges) <= most:
        for values in itertools.product(*ranges):
            yield dict(zip(indices, values, strict=True))
        return
    generator = random.Random(point.seed)
    for _ in range(most):
        at = {i: generator.choice(r) for i, r in zip(indices, ranges, strict=True)}
        for index in indices:
            partner = Index(index.name.rstrip("'"), index.size)
            if partner in at and generator.random() < 0.5:
                at[index] = at[partner]
        yield at
