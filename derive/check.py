"""Machine check of every step, by a route that shares no rule with the derivation.

Each side is evaluated, as it stands, at several random small sizes and at every value of its free indices: modulo a
prime when the step has only rational operations and square roots, at 60 digits otherwise. Inert derivatives are taken
by dual numbers. A step is

    proved       the two sides have the same normal form, and every evaluation agrees
    sampled      every evaluation agrees
    refuted      an evaluation differs (the counter-example is named)
    unverified   it could not be evaluated anywhere
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import sympy
from sympy import Expr, IndexedBase

from derive.algebra.differentiate import carry_out, expand_definitions
from derive.algebra.eliminate import free_indices
from derive.algebra.equality import equal
from derive.algebra.evaluate import Environment, Point, evaluate
from derive.algebra.fields import Modular, NotEvaluable, Real
from derive.algebra.index import Index
from derive.forward_map import Definition
from derive.record import CancellingMap, Derivation, Status, Step, Verdict

_POINTS = 3
_ATTEMPTS = 60
_MAX_ENTRIES = 12
_MAX_OPERATIONS = 200

Scope = Mapping[IndexedBase, Definition]


def checked(derivation: Derivation) -> Derivation:
    """Return the derivation with the verdict of every step, and of every step of its solutions, filled in."""
    steps = tuple(replace(step, verdict=check_step(step)) for step in derivation.steps)
    return replace(derivation, steps=steps, solutions=tuple(checked_map(m) for m in derivation.solutions))


def checked_map(found: CancellingMap) -> CancellingMap:
    """Return the map with the verdict of every step filled in."""
    return replace(found, steps=tuple(replace(step, verdict=check_step(step)) for step in found.steps))


def check_step(step: Step, seed: int = 0) -> Verdict:
    """Return the verdict of one step; ``seed`` chooses the evaluation points."""
    return _verdict(step, seed)


@lru_cache(maxsize=2_000)
def _verdict(step: Step, seed: int) -> Verdict:
    """Check a step once, however many derivations carry it."""
    scope = {definition.base: definition for definition in step.scope}
    sampled = _sample(step, scope, seed)
    if sampled.status is not Status.SAMPLED:
        return sampled
    if _provable(step, scope):
        return Verdict(Status.PROVED, f"normal form; {sampled.method}")
    return sampled


def _provable(step: Step, scope: Scope) -> bool:
    """Compare normal forms: as they stand, with moved tensors and the output expanded, with everything expanded."""
    before, after = carry_out(step.before, scope), carry_out(step.after, scope)
    if equal(before, after):
        return True
    moved = {d.name for d in step.scope if d.name.endswith("'")}
    outer = {base: d for base, d in scope.items() if d.name in moved or f"{d.name}'" in moved or d.entry == step.target}
    if equal(expand_definitions(before, outer), expand_definitions(after, outer)):
        return True
    before, after = expand_definitions(before, scope), expand_definitions(after, scope)
    return before.count_ops() + after.count_ops() <= _MAX_OPERATIONS and equal(before, after)


def _sample(step: Step, scope: Scope, seed: int) -> Verdict:
    """Evaluate both sides at several points, in the exact field first."""
    reason, symbols = "no point tried", _size_symbols(step)
    for field in (Modular(), Real()):
        agreed = 0
        for attempt in range(_ATTEMPTS):
            point = _point(symbols, scope, field, seed * 1000 + attempt, _volume(attempt))
            with field.precision():
                outcome = _compare(step, point)
            if outcome.refutation:
                return Verdict(Status.REFUTED, f"{outcome.refutation} ({field.name}, seed {point.seed})")
            agreed += outcome.entries > 0
            reason = outcome.reason or reason
            if agreed == _POINTS:
                return Verdict(Status.SAMPLED, f"{_POINTS} random sizes, {field.name}")
    return Verdict(Status.UNVERIFIED, f"not evaluable: {reason}")


def _volume(attempt: int) -> int:
    """Bound the product of the sizes: where roots seldom exist, later points are smaller."""
    return 64 if attempt < 4 else 16 if attempt < 16 else (6, 4, 3, 2)[attempt % 4]


def _point(symbols: list[sympy.Symbol], scope: Scope, field: Modular | Real, seed: int, volume: int) -> Point:
    """Draw small sizes for every size symbol."""
    generator = random.Random(seed)
    sizes = {s: generator.randint(*_range_of(s, volume)) for s in symbols}
    # Sizes of two and three show every effect of an index; many of them at once only cost time.
    large = [s for s, v in sizes.items() if v > 1]
    generator.shuffle(large)
    while large and _product(sizes.values()) > volume:
        sizes[large.pop()] = 1
    return Point(seed, sizes, field, scope)


def _product(values: Iterable[int]) -> int:
    total = 1
    for value in values:
        total *= max(value, 1)
    return total


def _range_of(symbol: sympy.Symbol, volume: int) -> tuple[int, int]:
    """Sizes are 1 to 3; offsets 0 to 2, but 0 at the smallest points, where padding would leave nothing to read."""
    if symbol.is_positive:
        return 1, 3
    return (0, 2) if volume > 6 else (0, 0)


def _size_symbols(step: Step) -> list[sympy.Symbol]:
    """Return the integer symbols of a step, in a fixed order."""
    expressions = [step.before, step.after, *(d.expression for d in step.scope)]
    found: set[sympy.Symbol] = set()
    for expression in expressions:
        for symbol in expression.atoms(sympy.Symbol):
            if isinstance(symbol, Index):
                found |= symbol.size.free_symbols
            elif symbol.is_integer:
                found.add(symbol)
        for entry in expression.atoms(IndexedBase):
            found |= getattr(entry, "values", sympy.S.Zero).free_symbols
    for definition in step.scope:
        found |= set().union(*(i.size.free_symbols for i in definition.indices))
    return sorted(found, key=lambda s: str(s.name))


@dataclass(frozen=True)
class _Outcome:
    """What one point says: entries that agree, the first that differs, and why others could not be evaluated."""

    entries: int
    refutation: str = ""
    reason: str = ""


def _compare(step: Step, point: Point) -> _Outcome:
    """Evaluate both sides at every chosen value of the free indices; entries without a value here are passed over."""
    entries, reason = 0, ""
    for at in _environments(step.before, step.after, point):
        try:
            left, right = evaluate(step.before, at, point)[0], evaluate(step.after, at, point)[0]
        except NotEvaluable as problem:
            reason = str(problem)
            if entries == 0:
                break
            continue
        if not point.field.same(left, right):
            where = ", ".join(f"{i.name}={v}" for i, v in at.items())
            sizes = ", ".join(f"{s}={v}" for s, v in point.sizes.items())
            return _Outcome(entries, f"{step.id}: the sides differ at {where or 'the only entry'} for {sizes}")
        entries += 1
    return _Outcome(entries, "", reason)


def _environments(before: Expr, after: Expr, point: Point) -> Iterator[Environment]:
    """Yield assignments of the free indices: all of them, or a random selection that favours equal primed pairs."""
    indices = sorted(free_indices(before) | free_indices(after), key=Index.sort_key)
    ranges = [range(point.size(i.size)) for i in indices]
    total = 1
    for r in ranges:
        total *= len(r)
    if total <= _MAX_ENTRIES:
        for values in itertools.product(*ranges):
            yield dict(zip(indices, values, strict=True))
        return
    generator = random.Random(point.seed)
    for _ in range(_MAX_ENTRIES):
        at = {i: generator.choice(r) for i, r in zip(indices, ranges, strict=True)}
        for index in indices:
            partner = Index(index.name.rstrip("'"), index.size)
            if partner in at and generator.random() < 0.5:
                at[index] = at[partner]
        yield at
