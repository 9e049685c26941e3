"""Machine check of every step, by a route that shares no rule with the derivation.

Each side is evaluated, as it stands, at several random small sizes and at every value of its free indices: modulo a prime
when the step has only rational operations and square roots, at 60 digits otherwise. Inert derivatives are taken by dual
numbers. A step is

    proved       the two sides have the same normal form, and every evaluation agrees
    sampled      every evaluation agrees
    refuted      an evaluation differs (the counter-example is named)
    unverified   it could not be evaluated anywhere
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import sympy
from sympy import Expr, IndexedBase

from derive.algebra.differentiate import carry_out, expand_definitions
from derive.algebra.eliminate import free_indices
from derive.algebra.equality import equal
from derive.algebra.evaluate import Environment, Modular, NotEvaluable, Point, Real, evaluate
from derive.algebra.index import Index
from derive.forward_map import Definition
from derive.record import CancellingMap, Derivation, Status, Step, Verdict

_POINTS = 3
_ATTEMPTS = 60
_MAX_ENTRIES = 24
_MAX_OPERATIONS = 200


def checked(derivation: Derivation) -> Derivation:
    """Return the derivation with the verdict of every step, and of every step of its solutions, filled in."""
    steps = tuple(replace(step, verdict=check_step(step)) for step in derivation.steps)
    return replace(derivation, steps=steps, solutions=tuple(checked_map(m) for m in derivation.solutions))


def checked_map(found: CancellingMap) -> CancellingMap:
    """Return the map with the verdict of every step filled in."""
    return replace(found, steps=tuple(replace(step, verdict=check_step(step)) for step in found.steps))


def check_step(step: Step, seed: int = 0) -> Verdict:
    """Return the verdict of one step; ``seed`` chooses the evaluation points."""
    scope = {definition.base: definition for definition in step.scope}
    sampled = _sample(step, scope, seed)
    if sampled.status is not Status.SAMPLED:
        return sampled
    if _provable(step, scope):
        return Verdict(Status.PROVED, f"normal form; {sampled.method}")
    return sampled


def _provable(step: Step, scope: dict[IndexedBase, Definition]) -> bool:
    before, after = carry_out(step.before, scope), carry_out(step.after, scope)
    if equal(before, after):
        return True
    before, after = expand_definitions(before, scope), expand_definitions(after, scope)
    return before.count_ops() + after.count_ops() <= _MAX_OPERATIONS and equal(before, after)


def _sample(step: Step, scope: dict[IndexedBase, Definition], seed: int) -> Verdict:
    """Evaluate both sides at several points, in the exact field first."""
    reason = "no point tried"
    for field in (Modular(), Real()):
        agreed = 0
        for attempt in range(_ATTEMPTS):
            point = _point(step, scope, field, seed * 1000 + attempt)
            try:
                difference = _differs(step, point)
            except NotEvaluable as problem:
                reason = str(problem)
                continue
            if difference:
                return Verdict(Status.REFUTED, f"{difference} ({field.name}, seed {point.seed})")
            agreed += 1
            if agreed == _POINTS:
                return Verdict(Status.SAMPLED, f"{_POINTS} random sizes, {field.name}")
    return Verdict(Status.UNVERIFIED, f"not evaluable: {reason}")


def _point(step: Step, scope: dict[IndexedBase, Definition], field: Modular | Real, seed: int) -> Point:
    """Draw small sizes for every size symbol that the step or its definitions mention."""
    generator = random.Random(seed)
    sizes = {s: generator.randint(*_range_of(s)) for s in _size_symbols(step)}
    return Point(seed, sizes, field, scope)


def _range_of(symbol: sympy.Symbol) -> tuple[int, int]:
    return (1, 3) if symbol.is_positive else (0, 2)


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


def _differs(step: Step, point: Point) -> str:
    """Return where the two sides differ, or an empty string."""
    for at in _environments(step.before, step.after, point):
        left, right = evaluate(step.before, at, point)[0], evaluate(step.after, at, point)[0]
        if not point.field.same(left, right):
            where = ", ".join(f"{i.name}={v}" for i, v in at.items())
            sizes = ", ".join(f"{s}={v}" for s, v in point.sizes.items())
            return f"{step.id}: the sides differ at {where or 'the only entry'} for {sizes}"
    return ""


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
