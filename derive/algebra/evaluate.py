"""Exact evaluation of indexed sums at small sizes: the independent route by which every step is checked.

Entries are random elements of a field (``fields``), drawn from a seed by name and position. Derivatives are taken by
dual numbers (value and slope), never by the rules that are being checked. Nothing is rewritten here: no delta is
eliminated, no sum is split.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow, Symbol

from derive.algebra.eliminate import free_indices, is_guard
from derive.algebra.fields import Modular, NotEvaluable, Real
from derive.algebra.index import Index
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within
from derive.algebra.positions import Affine, Environment, position

Number = Any
Jet = tuple[Number, Number]


Witness = tuple[Expr, object]
Evaluator = Callable[[Environment, "Point"], Jet]
Maker = tuple[tuple[Index, ...], Evaluator]


@dataclasses.dataclass
class Point:
    """One evaluation point: sizes, free indices and a seed from which every entry and scalar follows.

    ``witnessed``, unless None, collects what was seen at the edges: see ``edges``. A nudged point knows the point
    ``rest`` that it was nudged from, and looks there for every tensor that is not ``moving`` with the nudge.
    """

    seed: int
    sizes: dict[Symbol, int]
    field: Modular | Real
    scope: Mapping[IndexedBase, Any]
    perturbed: tuple[str, tuple[int, ...]] | None = None
    memory: dict[Any, Jet] = dataclasses.field(default_factory=dict)
    shadows: dict[Any, Point] = dataclasses.field(default_factory=dict)
    constants: dict[Expr, Number] = dataclasses.field(default_factory=dict)
    forms: dict[int, Affine] = dataclasses.field(default_factory=dict)
    makers: dict[str, Maker | None] = dataclasses.field(default_factory=dict)
    witnessed: set[Witness] | None = None
    rest: Point | None = None
    moving: frozenset[str] = frozenset()

    def size(self, expression: Expr) -> int:
        """Return the value of a size expression."""
        if expression in self.sizes:
            return self.sizes[expression]
        value = expression.xreplace({s: sympy.Integer(v) for s, v in self.sizes.items()})
        if not value.is_Integer:
            raise NotEvaluable(f"size {expression} has no integer value here")
        return int(value)

    def constant(self, expression: Expr) -> Number:
        """Return a number as an element of the field."""
        if expression not in self.constants:
            self.constants[expression] = self.field.constant(expression)
        return self.constants[expression]

    def nudged(self, key: tuple[str, tuple[int, ...]]) -> Point:
        """Return the same point with slope one on one entry; dual numbers lose a slope of a slope, so it is refused."""
        if self.perturbed is not None:
            raise NotEvaluable("a derivative of a derivative")
        if key not in self.shadows:
            self.shadows[key] = dataclasses.replace(
                self, perturbed=key, memory={}, shadows={}, rest=self, moving=self._moving(key[0])
            )
        return self.shadows[key]

    def _moving(self, name: str) -> frozenset[str]:
        """Return the names of what depends on a tensor or scalar, itself included."""
        moving = {name}
        for _ in self.scope:
            found = {str(base.label) for base, made in self.scope.items() if _names(made.expression) & moving}
            if found <= moving:
                break
            moving |= found
        return frozenset(moving)

    def maker(self, base: IndexedBase, name: str) -> Maker | None:
        """Return the indices and the evaluator of an intermediate's definition; None for an unknown tensor."""
        if name not in self.makers:
            definition = self.scope.get(base)
            self.makers[name] = definition and (definition.indices, compiled(definition.expression))
        return self.makers[name]

    def home(self, name: str) -> Point:
        """Return the point at which a tensor is looked up: this one, or that at rest where the nudge does not reach."""
        return self if self.rest is None or name in self.moving else self.rest

    def draw(self, name: str, indices: tuple[int, ...], positive: bool = False) -> Number:
        """Return the entry of an unknown tensor: a function of seed, name and position alone."""
        return self.field.random(self.bits(name, indices), positive)

    def bits(self, name: str, indices: tuple[int, ...]) -> int:
        """Return 64 random bits for a name and a position."""
        digest = hashlib.blake2b(f"{self.seed}/{name}/{indices}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")


@lru_cache(maxsize=5_000)
def _names(expression: Expr) -> frozenset[str]:
    """Return the names of all tensors and scalars in an expression (and of its indices, which does no harm)."""
    return frozenset(symbol.name for symbol in expression.atoms(Symbol))


def evaluate(expression: Expr, at: Environment, point: Point) -> Jet:
    """Return value and slope of an expression at a point, with free indices given by ``at``."""
    return compiled(expression)(at, point)


@lru_cache(maxsize=20_000)
def compiled(expression: Expr) -> Evaluator:
    """Return the evaluator of an expression: one closure a node, so that a sum costs no tree walk per term."""
    for kind, rule in _RULES:
        if isinstance(expression, kind):
            return rule(expression)
    return _function(expression)


def _number(expression: Expr) -> Evaluator:
    if expression.is_Integer:
        whole = int(expression)
        return lambda at, point: (whole, 0)
    return lambda at, point: (point.constant(expression), 0)


def _add(expression: Add) -> Evaluator:
    parts = [compiled(a) for a in expression.args]

    def _run(at: Environment, point: Point) -> Jet:
        value, slope = 0, 0
        for part in parts:
            v, d = part(at, point)
            value, slope = value + v, slope + d
        return point.field.tidy(value), point.field.tidy(slope)

    return _run


def _multiply(expression: Mul) -> Evaluator:
    """Multiply, guards first: what a guard excludes (an entry outside its tensor) is never looked at."""
    conditions = [f for f in expression.args if is_guard(f)]
    guards = [compiled(f) for f in conditions]
    parts = [compiled(f) for f in expression.args if not is_guard(f)]

    def _run(at: Environment, point: Point) -> Jet:
        if point.witnessed is not None and conditions:
            point.witnessed |= _decisive(conditions, at, point)
        for guard in guards:
            if guard(at, point)[0] == 0:
                return 0, 0
        value, slope = 1, 0
        for part in parts:
            v, d = part(at, point)
            value, slope = point.field.tidy(value * v), point.field.tidy(value * d + slope * v)
        return value, slope

    return _run


def _power(expression: Pow) -> Evaluator:
    base, exponent = compiled(expression.base), expression.exp
    if not exponent.is_number:
        raise NotEvaluable(f"symbolic exponent {exponent}")

    def _run(at: Environment, point: Point) -> Jet:
        v, d = base(at, point)
        value = point.field.power(v, exponent)
        if d == 0:
            return value, 0
        return value, point.field.tidy(point.field.power(v, exponent - 1) * point.constant(exponent) * d)

    return _run


def _sum(expression: IndexedSum) -> Evaluator:
    body, bound, pairs = compiled(expression.body), expression.bound, _pairs(expression)

    def _run(at: Environment, point: Point) -> Jet:
        value, slope, inner = 0, 0, dict(at)
        for values in itertools.product(*(range(point.size(i.size)) for i in bound)):
            inner.update(zip(bound, values, strict=True))
            v, d = body(inner, point)
            value, slope = value + v, slope + d
            if point.witnessed is not None and (v or d):
                point.witnessed |= {(expression, i) for i in bound if inner[i] == point.size(i.size) - 1}
                point.witnessed |= {(expression, p) for p in pairs if inner[p[0]] != inner[p[1]]}
        return point.field.tidy(value), point.field.tidy(slope)

    return _run


def _entry(expression: Indexed) -> Evaluator:
    base, name, place = expression.base, str(expression.base.label), _place(expression)

    def _run(at: Environment, point: Point) -> Jet:
        home, key = point.home(name), (name, place(at, point))
        known = home.memory.get(key)
        if known is None:
            known = home.memory[key] = _look_up(base, key, home)
        return known

    return _run


def _place(entry: Indexed) -> Callable[[Environment, Point], tuple[int, ...]]:
    """Return the evaluator of an entry's position."""
    if all(isinstance(i, Index) for i in entry.indices):
        indices = entry.indices
        return lambda at, point: tuple([at[i] for i in indices])
    positions = [position(i) for i in entry.indices]
    return lambda at, point: tuple([_whole(p(at, point), entry) for p in positions])


def _whole(value: int | Fraction, expression: Expr) -> int:
    if type(value) is int:
        return value
    if value.denominator != 1:
        raise NotEvaluable(f"broken index in {expression}")
    return int(value)


def _look_up(base: IndexedBase, key: tuple[str, tuple[int, ...]], point: Point) -> Jet:
    maker = point.maker(base, key[0])
    if maker is None:
        return point.draw(*key), int(point.perturbed == key)
    indices, body = maker
    return body(dict(zip(indices, key[1], strict=True)), point)


def _guard(expression: Expr) -> Evaluator:
    left, right = (position(a) for a in expression.args)
    holds = _conditions[type(expression)]
    return lambda at, point: (int(holds(left(at, point), right(at, point))), 0)


_conditions: dict[type[Expr], Callable[[int | Fraction, int | Fraction], bool]] = {
    KroneckerDelta: lambda a, b: a == b,
    Divides: lambda a, b: Fraction(b, a).denominator == 1,
    Within: lambda a, b: 0 <= a < b and a.denominator == 1,
}


def edges(expression: Expr) -> set[Witness]:
    """Return what evaluations must have met before their agreement says much of an expression.

    Of every range guard, both sides of both ends; of every other guard, that it held and failed: each time with all
    guards beside it holding, so that it alone decided. Of every sum, terms that are not zero: the last of every index,
    and one where any two indices differ that are both bound or run over one range.
    """
    wanted: set[Witness] = set()
    for total in expression.atoms(IndexedSum):
        wanted |= {(total, seen) for seen in (*total.bound, *_pairs(total))}
    for guard in expression.atoms(KroneckerDelta, Divides, Within):
        wanted |= {(guard, word) for word in (_ENDS.values() if isinstance(guard, Within) else ("holds", "fails"))}
    return wanted


def _pairs(total: IndexedSum) -> list[tuple[Index, Index]]:
    indices = sorted(free_indices(total.body), key=Index.sort_key)
    pairs = itertools.combinations(indices, 2)
    return [(i, j) for i, j in pairs if i.size == j.size or (i in total.bound and j in total.bound)]


_ENDS = {(-1, True): "before", (0, True): "first", (-1, False): "last", (0, False): "after"}


def _decisive(conditions: Sequence[Expr], at: Environment, point: Point) -> set[Witness]:
    """Return what this point shows of guards that stand beside each other: of all if all hold, of one if it fails.

    Of a range guard only the range: that its index is an integer is what a divisibility guard beside it says.
    """
    sides = [tuple(position(a)(at, point) for a in guard.args) for guard in conditions]
    within = [isinstance(guard, Within) for guard in conditions]
    held = [
        0 <= a < b if w else _conditions[type(g)](a, b) for w, g, (a, b) in zip(within, conditions, sides, strict=True)
    ]
    if held.count(False) > 1:
        return set()
    seen: set[Witness] = set()
    for k in [held.index(False)] if False in held else range(len(held)):
        guard, (a, b) = conditions[k], sides[k]
        if within[k]:
            seen |= {(guard, _ENDS[key]) for key in ((a, True), (a - b, False)) if key in _ENDS}
        elif not (isinstance(guard, Divides) and abs(a) == 1):  # one divides everything, which shows nothing
            seen.add((guard, "holds" if held[k] else "fails"))
    return seen


def _symbol(symbol: Symbol) -> Evaluator:
    if isinstance(symbol, Index):
        return lambda at, point: (at[symbol], 0)
    key = (symbol.name, ())

    def _run(at: Environment, point: Point) -> Jet:
        if symbol in point.sizes:
            return point.sizes[symbol], 0
        if key not in point.memory:
            point.memory[key] = point.draw(symbol.name, (), bool(symbol.is_positive)), int(point.perturbed == key)
        return point.memory[key]

    return _run


def _partial(expression: PartialDerivative) -> Evaluator:
    """Differentiate by dual numbers: the variable's entry gets slope one, the expression's slope is read off."""
    inner, variable = compiled(expression.expression), expression.variable
    indexed = isinstance(variable, Indexed)
    name = str(variable.base.label) if indexed else variable.name
    positions = [position(i) for i in variable.indices] if indexed else []

    def _run(at: Environment, point: Point) -> Jet:
        key = (name, tuple(int(p(at, point)) for p in positions))
        return inner(at, point.nudged(key))[1], 0

    return _run


def _at_zero(expression: AtZero) -> Evaluator:
    inner, key = compiled(expression.args[0]), (expression.args[1].name, ())

    def _run(at: Environment, point: Point) -> Jet:
        nudged = point.nudged(key)
        nudged.memory[key] = (0, 1)
        return inner(at, nudged)[1], 0

    return _run


def _function(expression: Expr) -> Evaluator:
    """Apply an elementary function; its slope is SymPy's scalar derivative, evaluated."""
    from derive.algebra.differentiate import outer_derivative

    parts = [compiled(a) for a in expression.args]
    slots = [Symbol(f"_slot{k}", real=True) for k in range(len(parts))]
    applied = expression.func(*slots)

    def _run(at: Environment, point: Point) -> Jet:
        jets = [part(at, point) for part in parts]
        value, slope = point.field.apply(expression, [v for v, _ in jets]), 0
        for slot, (_, d) in zip(slots, jets, strict=True):
            if d != 0:
                inner = Point(point.seed, {}, point.field, {})
                inner.memory.update({(s.name, ()): (v, 0) for s, (v, _) in zip(slots, jets, strict=True)})
                slope += evaluate(outer_derivative(applied, applied.args.index(slot) + 1), {}, inner)[0] * d
        return value, slope

    return _run


_RULES: tuple[tuple[Any, Callable[[Any], Evaluator]], ...] = (
    (sympy.Number | sympy.NumberSymbol, _number),
    (Add, _add),
    (Mul, _multiply),
    (Pow, _power),
    (IndexedSum, _sum),
    (Indexed, _entry),
    (KroneckerDelta | Within | Divides, _guard),
    (PartialDerivative, _partial),
    (AtZero, _at_zero),
    (Symbol, _symbol),
)
