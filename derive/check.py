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
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import sympy
from sympy import Expr, IndexedBase

from derive.algebra.differentiate import carry_out, expand_definitions
from derive.algebra.eliminate import free_indices
from derive.algebra.equality import equal
from derive.algebra.evaluate import Point, Witness, edges, evaluate
from derive.algebra.fields import DIVISION, Modular, NotEvaluable, Real
from derive.algebra.index import Index
from derive.algebra.normal import normalise
from derive.algebra.positions import Environment
from derive.forward_map import Definition
from derive.record import CancellingMap, Derivation, Status, Step, Verdict

_LEAST = 3
_ATTEMPTS = 100
_FEW_ENTRIES, _MANY_ENTRIES = 12, 40
_MAX_OPERATIONS = 1_000

_FIELDS = (Modular(), Real())

Scope = Mapping[IndexedBase, Definition]
Definitions = tuple[Definition, ...]


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
    sampled = _sample(step, seed, _FEW)
    if sampled.status is not Status.SAMPLED:
        return sampled
    if _provable(step, scope):
        return Verdict(Status.PROVED, f"normal form; {sampled.method}")
    return _sample(step, seed, _MANY)


def _provable(step: Step, scope: Scope) -> bool:
    """Compare normal forms, the definitions expanded further and further; what has been compared is not again."""
    tried: set[tuple[Expr, Expr]] = set()
    for sides in _forms(step, scope):
        if sides not in tried and equal(*sides):
            return True
        tried.add(sides)
    return False


def _forms(step: Step, scope: Scope) -> Iterator[tuple[Expr, Expr]]:
    """Yield both sides as they stand, then with more and more intermediates replaced by their definitions.

    First moved tensors and the output; then what is made of other intermediates, so that those stay whole; then all.
    """
    before, after = carry_out(step.before, scope), carry_out(step.after, scope)
    yield before, after
    moved = {d.name for d in step.scope if d.name.endswith("'")}
    outer = {base: d for base, d in scope.items() if d.name in moved or f"{d.name}'" in moved or d.entry == step.target}
    if outer:
        # What is made of moved tensors takes its normal form before they are replaced by what they have become.
        first = _made_of(outer, outer)
        staged = [normalise(expand_definitions(side, first)) for side in (before, after)]
        yield expand_definitions(staged[0], outer), expand_definitions(staged[1], outer)
    for some in (_made_of(scope, scope), scope):
        left, right = expand_definitions(before, some), expand_definitions(after, some)
        if left.count_ops() + right.count_ops() <= _MAX_OPERATIONS:
            yield left, right


def _made_of(scope: Scope, others: Scope) -> Scope:
    """Return the definitions that mention an intermediate of ``others``."""
    return {base: d for base, d in scope.items() if d.expression.atoms(IndexedBase) & others.keys()}


@dataclass(frozen=True)
class _Effort:
    """How many points must agree, and whether they must have met every edge: on, until so many more meet no new one."""

    points: int
    patience: int
    thorough: bool


_FEW, _MANY = _Effort(3, 2, False), _Effort(10, 16, True)


def _sample(step: Step, seed: int, effort: _Effort) -> Verdict:
    """Evaluate both sides at several points, in the exact field first, until the points have shown enough.

    At size one a delta is no condition, a sum has one term and a tangent projection is zero: there, much agrees. So
    every size must have been larger than one; and where nothing is proved, both sides of every edge must have been met
    (``_edges``), and points that the exact field could not evaluate (the large ones, where roots are many) are made up
    for by reals. Where a denominator vanishes a step says nothing, and such points are passed over: a centred patch of
    one entry has no energy. What keeps other axes larger may be what makes that patch small, so it is then given up at
    every second point.
    """
    reason, sampled, sizes, wanted = "", "", _Sizes.of(step), _edges(step) if effort.thorough else set()
    for field in _FIELDS:
        agreed, newest, small, unseen, vanished = 0, 0, set(sizes.symbols), set(wanted), False
        for attempt in range(_ATTEMPTS):
            kept = set() if vanished and attempt % 2 else small
            drawn = sizes.draw(kept, seed * 1000 + attempt, _volume(attempt - agreed))
            point = _point(step, seed * 1000 + attempt, drawn, field, effort)
            with field.precision():
                outcome = _compare(step, point)
            if outcome.refutation:
                return Verdict(Status.REFUTED, f"{outcome.refutation} ({field.name}, seed {point.seed})")
            reason, vanished = outcome.reason or reason, outcome.reason == DIVISION
            if outcome.entries:
                agreed += 1
                shown = {s for s, size in drawn.items() if size > sizes.least(s)} | (point.witnessed or set())
                newest = agreed if shown & unseen else newest
                small, unseen = small - shown, unseen - shown
            if agreed >= effort.points and (not (small or unseen) or agreed >= newest + effort.patience):
                break
        if agreed >= _LEAST:
            sampled = f"{agreed} random sizes, {field.name}"
        if sampled and not (effort.thorough and reason):
            break
    return Verdict(Status.SAMPLED, sampled) if sampled else Verdict(Status.UNVERIFIED, f"not evaluable: {reason}")


def _point(step: Step, seed: int, drawn: dict[sympy.Symbol, int], field: Modular | Real, effort: _Effort) -> Point:
    """Return the point to compare at; what has been met at it is collected only where the effort asks for it."""
    if effort.thorough:
        return Point(seed, drawn, field, {definition.base: definition for definition in step.scope}, witnessed=set())
    return _shared(seed, tuple(drawn.items()), field, step.scope)


@lru_cache(maxsize=128)
def _shared(seed: int, sizes: tuple[tuple[sympy.Symbol, int], ...], field: Modular | Real, scope: Definitions) -> Point:
    """Return a point; steps with one scope share it, for what an intermediate is there needs no second evaluation."""
    return Point(seed, dict(sizes), field, {definition.base: definition for definition in scope})


def _edges(step: Step) -> set[Witness]:
    """Return the edges of both sides, and every two free indices of one range: they must have differed somewhere."""
    indices = sorted(free_indices(step.before) | free_indices(step.after), key=Index.sort_key)
    alike = {pair for pair in itertools.combinations(indices, 2) if pair[0].size == pair[1].size}
    return edges(step.before) | edges(step.after) | alike


def _volume(failed: int) -> int:
    """Bound the product of the axes: where roots seldom exist, later points are smaller."""
    return 200 if failed < 8 else 16 if failed < 16 else (6, 4, 3, 2)[failed % 4]


@dataclass(frozen=True)
class _Sizes:
    """The integer symbols of a step, in a fixed order: ``axes`` are ranges of indices, others strides and offsets."""

    axes: tuple[sympy.Symbol, ...]
    others: tuple[sympy.Symbol, ...]

    @property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """All of them."""
        return (*self.axes, *self.others)

    @staticmethod
    def least(symbol: sympy.Symbol) -> int:
        """The smallest value that a symbol takes."""
        return 1 if symbol.is_positive else 0

    @classmethod
    def of(cls, step: Step) -> _Sizes:
        """Collect the symbols of both sides and of the definitions in scope."""
        axes: set[sympy.Symbol] = set()
        others: set[sympy.Symbol] = set()
        for expression in (step.before, step.after, *(d.expression for d in step.scope)):
            for symbol in expression.atoms(sympy.Symbol):
                if isinstance(symbol, Index):
                    axes |= symbol.size.free_symbols
                elif symbol.is_integer:
                    others.add(symbol)
            for entry in expression.atoms(IndexedBase):
                axes |= getattr(entry, "values", sympy.S.Zero).free_symbols
        for definition in step.scope:
            axes |= set().union(*(i.size.free_symbols for i in definition.indices))
        return cls(*(tuple(sorted(part, key=lambda s: str(s.name))) for part in (axes, others - axes)))

    def draw(self, small: set[sympy.Symbol], seed: int, volume: int) -> dict[sympy.Symbol, int]:
        """Draw a value for every symbol; axes that have only been one so far come before the others.

        At the smallest points offsets are zero, and so are most strides one, for others would leave nothing to read.
        """
        generator = random.Random(seed)
        sizes = {s: generator.choice((1, 2, 2, 3, 4)) for s in self.axes}
        sizes |= {s: max(sizes[s], 2) for s in self.axes if s in small}
        for symbol in self.others:
            least = self.least(symbol)
            sizes[symbol] = least + generator.choice((0, 1, 1, 2) if volume > 6 else (0, 0, 3 * least))
        order = sorted(self.axes, key=lambda s: (s in small, generator.random()))
        # Sizes of two and three show every effect of an index; many of them at once only cost time.
        for floor in (3, 2, 1):
            for symbol in order:
                if math.prod(sizes[s] for s in self.axes) > volume:
                    sizes[symbol] = min(sizes[symbol], floor)
        return sizes


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
        if point.witnessed is not None and left:
            point.witnessed |= {(i, j) for i, j in itertools.combinations(at, 2) if at[i] != at[j]}
    return _Outcome(entries, "", reason)


def _environments(before: Expr, after: Expr, point: Point) -> Iterator[Environment]:
    """Yield assignments of the free indices: all of them, or a random selection that favours equal primed pairs."""
    indices = sorted(free_indices(before) | free_indices(after), key=Index.sort_key)
    ranges = [range(point.size(i.size)) for i in indices]
    total = 1
    for r in ranges:
        total *= len(r)
    most = _FEW_ENTRIES if point.witnessed is None else _MANY_ENTRIES
    if total <= most:
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
