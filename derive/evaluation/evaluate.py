"""Values and slopes of indexed sums at small sizes, node by node.

An expression becomes a closure that returns a *jet*: its value, and its slopes with respect to tensor entries as a
mapping from entry to number (None if there are none). Slopes are those of dual numbers, for every entry of the *active*
tensors at once. Values of sums and intermediates are cached, so that each is computed once per point.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, Mul, Pow, Symbol
from sympy.core.function import Application

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.nodes import GUARDS, AtZero, IndexedSum, PartialDerivative
from derive.algebra.reductions import Masked, Reduction, Stopped
from derive.evaluation.contraction import contraction
from derive.evaluation.edges import decisive, pairs_of, shown_by
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Jet, Key, Point
from derive.evaluation.positions import CONDITIONS, Environment, position
from derive.evaluation.reading import free_indices, is_guard
from derive.evaluation.reductions import REDUCTIONS

Evaluator = Callable[[Environment, Point], Jet]
_numbers = itertools.count()


def evaluate(expression: Expr, at: Environment, point: Point) -> Any:
    """Return the value of an expression at a point, with free indices given by ``at``."""
    return compiled(expression)(at, point)[0]


@lru_cache(maxsize=20_000)
def compiled(expression: Expr) -> Evaluator:
    """Return the evaluator of an expression: one closure per node, so that a sum traverses no tree per term."""
    for kind, rule in _RULES:
        if isinstance(expression, kind):
            return rule(expression)
    raise NotEvaluable(f"no rule for {type(expression).__name__}")


def _number(expression: Expr) -> Evaluator:
    if expression.is_Integer:
        whole = int(expression), None
        return lambda at, point: whole
    return lambda at, point: (point.constant(expression), None)


def _add(expression: Add) -> Evaluator:
    parts = [compiled(a) for a in expression.args]

    def _run(at: Environment, point: Point) -> Jet:
        value: Any = 0
        slopes: dict[Key, Any] | None = None
        for part in parts:
            v, d = part(at, point)
            value = value + v
            if d:
                slopes = _added(slopes, d)
        return point.field.tidy(value), slopes

    return _run


def _added(slopes: dict[Key, Any] | None, more: dict[Key, Any]) -> dict[Key, Any]:
    if slopes is None:
        return dict(more)
    for key, slope in more.items():
        slopes[key] = slopes.get(key, 0) + slope
    return slopes


def _multiply(expression: Mul) -> Evaluator:
    """Multiply, guards first: what a guard excludes (an entry outside its tensor) is never evaluated."""
    conditions = [f for f in expression.args if is_guard(f)]
    guards = [compiled(f) for f in conditions]
    parts = [compiled(f) for f in expression.args if not is_guard(f)]
    shows = shown_by(*conditions)

    def _run(at: Environment, point: Point) -> Jet:
        if conditions and point.witnessed is not None and not shows.isdisjoint(point.wanted):
            point.witnessed |= decisive(conditions, at, point)
        for guard in guards:
            if guard(at, point)[0] == 0:
                return 0, None
        value: Any = 1
        slopes: dict[Key, Any] | None = None
        tidy = point.field.tidy
        for part in parts:
            v, d = part(at, point)
            if slopes:
                slopes = {key: tidy(slope * v) for key, slope in slopes.items()}
            if d:
                slopes = _added(slopes, {key: tidy(value * slope) for key, slope in d.items()})
            value = tidy(value * v)
        return value, slopes

    return _run


def _power(expression: Pow) -> Evaluator:
    base, exponent = compiled(expression.base), expression.exp
    if not exponent.is_number:
        return _setting_power(expression)

    def _run(at: Environment, point: Point) -> Jet:
        v, d = base(at, point)
        value = point.field.power(v, exponent)
        if not d:
            return value, None
        return value, _scaled(d, point.field.power(v, exponent - 1) * point.constant(exponent), point)

    return _run


def _setting_power(expression: Pow) -> Evaluator:
    """Raise a real number to an exponent that is a setting or is made of settings."""
    base, exponent = compiled(expression.base), compiled(expression.exp)

    def _run(at: Environment, point: Point) -> Jet:
        v, d = base(at, point)
        power, moving = exponent(at, point)
        if moving:
            raise NotEvaluable(f"an exponent that depends on the active tensors: {expression.exp}")
        value = point.field.real_power(v, power)
        return value, _scaled(d, point.field.real_power(v, power - 1) * power, point) if d else None

    return _run


def _scaled(slopes: dict[Key, Any], factor: Any, point: Point) -> dict[Key, Any]:
    tidy = point.field.tidy
    return {key: tidy(slope * factor) for key, slope in slopes.items()}


def _sum(expression: IndexedSum) -> Evaluator:
    body, bound, pairs = compiled(expression.body), expression.bound, pairs_of(expression)
    free, number = sorted(free_indices(expression), key=Index.sort_key), next(_numbers)
    products = isinstance(expression.body, Mul) and len(bound) > 1
    short = contraction(expression.body, bound, compiled) if products else None
    shows = shown_by(expression, *Mul.make_args(expression.body))

    def _run(at: Environment, point: Point) -> Jet:
        key = (number, *[at[i] for i in free])
        known = point.kept.get(key)
        if known is None:
            known = point.kept[key] = _total(at, point)
        return known

    def _total(at: Environment, point: Point) -> Jet:
        if short is not None and (point.witnessed is None or shows.isdisjoint(point.wanted)):
            try:
                return short(at, point)
            except NotEvaluable:
                pass  # a factor alone may have no value where a guard beside it excludes the term
        value: Any = 0
        slopes: dict[Key, Any] | None = None
        inner = dict(at)
        for values in itertools.product(*[range(point.size(i.size)) for i in bound]):
            inner.update(zip(bound, values, strict=True))
            v, d = body(inner, point)
            value = value + v
            if d:
                slopes = _added(slopes, d)
            if point.witnessed is not None and (v or d):
                _witness(inner, point)
        return point.field.tidy(value), slopes

    def _witness(inner: Environment, point: Point) -> None:
        """Record the edges that a nonzero term hits, if this point has not recorded them."""
        assert point.witnessed is not None
        unseen = point.unseen.get(number)
        if unseen is None:
            unseen = point.unseen[number] = [w for w in (*bound, *pairs) if (expression, w) not in point.witnessed]
        for seen in [w for w in unseen if _shows(w, inner, point)]:
            unseen.remove(seen)
            point.witnessed.add((expression, seen))

    return _run


def _shows(wanted: Index | tuple[Index, Index], at: Environment, point: Point) -> bool:
    """Return whether a term has the last value of an index, or two indices that differ."""
    if isinstance(wanted, Index):
        return at[wanted] == point.size(wanted.size) - 1
    return at[wanted[0]] != at[wanted[1]]


def _reduction(expression: Reduction) -> Evaluator:
    """Reduce over the bound indices by the rules of ``evaluation.reductions``."""
    body, bound, rule = compiled(expression.body), expression.bound, REDUCTIONS[type(expression)]
    free, number = sorted(free_indices(expression), key=Index.sort_key), next(_numbers)

    def _run(at: Environment, point: Point) -> Jet:
        key = (number, *[at[i] for i in free])
        if key not in point.kept:
            inner, jets = dict(at), []
            for values in itertools.product(*[range(point.size(i.size)) for i in bound]):
                inner.update(zip(bound, values, strict=True))
                jets.append(body(inner, point))
            value, weights = rule([v for v, _ in jets], any(d for _, d in jets))
            slopes: dict[Key, Any] | None = None
            for (_, d), weight in zip(jets, weights, strict=False):
                slopes = _added(slopes, _scaled(d, weight, point)) if d and weight else slopes
            point.kept[key] = point.field.tidy(value), slopes
        return point.kept[key]

    return _run


def _stopped(expression: Stopped) -> Evaluator:
    held = compiled(expression.args[0])
    return lambda at, point: (held(at, point)[0], None)


def _masked(expression: Masked) -> Evaluator:
    """Return the score if the mask holds; a score whose mask fails counts as minus infinity and is not evaluated."""
    score, mask = compiled(expression.args[0]), compiled(expression.args[1])
    conditions = [f for f in Mul.make_args(expression.args[1]) if is_guard(f)]

    def _run(at: Environment, point: Point) -> Jet:
        if point.witnessed is not None and conditions:
            point.witnessed |= decisive(conditions, at, point)
        return score(at, point) if mask(at, point)[0] else (point.field.lowest, None)

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


def _look_up(base: IndexedBase, key: Key, point: Point) -> Jet:
    """Return an entry: zero outside a tensor of known axes, else its definition's value, or a random number."""
    name, place = key
    if not point.inside(name, place):
        return 0, None
    definition = point.scope.get(base)
    if definition is None:
        given = point.rest.memory.get(key) if point.rest is not None else None
        return given[0] if given else point.draw(name, place), {key: 1} if name in point.active else None
    return compiled(definition.expression)(dict(zip(definition.indices, place, strict=True)), point)


def _guard(expression: Expr) -> Evaluator:
    left, right = (position(a) for a in expression.args)
    holds = CONDITIONS[type(expression)]
    return lambda at, point: (int(holds(left(at, point), right(at, point))), None)


def _whole_number(expression: Expr) -> Evaluator:
    """Return the evaluator of an integer quotient or remainder of index expressions that is used as a number."""
    where = position(expression)
    return lambda at, point: (where(at, point), None)


def _symbol(symbol: Symbol) -> Evaluator:
    if isinstance(symbol, Index):
        return lambda at, point: (at[symbol], None)
    key: Key = (symbol.name, ())

    def _run(at: Environment, point: Point) -> Jet:
        if symbol in point.sizes:
            return point.sizes[symbol], None
        home = point.home(symbol.name)
        if key not in home.memory:
            value = home.draw(symbol.name, (), bool(symbol.is_positive))
            home.memory[key] = value, {key: 1} if symbol.name in home.active else None
        return home.memory[key]

    return _run


def _partial(expression: PartialDerivative) -> Evaluator:
    """Differentiate by dual numbers: all entries of the variable's tensor are active; return the wanted slope."""
    inner, variable = compiled(expression.expression), expression.variable
    indexed = isinstance(variable, Indexed)
    name = str(variable.base.label) if indexed else variable.name
    positions = [position(i) for i in variable.indices] if indexed else []
    free, number = sorted(free_indices(expression.expression), key=Index.sort_key), next(_numbers)

    def _run(at: Environment, point: Point) -> Jet:
        key = (name, tuple([int(p(at, point)) for p in positions]))
        moved, kept = point.nudged(name), (number, *[at[i] for i in free])
        if kept not in moved.kept:
            moved.kept[kept] = inner(at, moved)
        return point.field.tidy((moved.kept[kept][1] or {}).get(key, 0)), None

    return _run


def _at_zero(expression: AtZero) -> Evaluator:
    inner, key = compiled(expression.args[0]), (expression.args[1].name, ())

    def _run(at: Environment, point: Point) -> Jet:
        moved = point.nudged(key[0])
        moved.memory[key] = 0, {key: 1}
        return point.field.tidy((inner(at, moved)[1] or {}).get(key, 0)), None

    return _run


def _function(expression: Expr) -> Evaluator:
    """Apply an elementary function, with the slopes of ``functions``."""
    parts, kind = [compiled(a) for a in expression.args], expression.func

    def _run(at: Environment, point: Point) -> Jet:
        jets = [part(at, point) for part in parts]
        arguments = [v for v, _ in jets]
        value = point.field.value(kind, arguments)
        if not any(d for _, d in jets):
            return value, None
        slopes: dict[Key, Any] | None = None
        for (_, d), slope in zip(jets, point.field.slopes(kind, arguments, value), strict=True):
            if d:
                slopes = _added(slopes, _scaled(d, slope, point))
        return value, slopes

    return _run


_RULES: tuple[tuple[Any, Callable[[Any], Evaluator]], ...] = (
    (sympy.Number | sympy.NumberSymbol, _number),
    (Add, _add),
    (Mul, _multiply),
    (Pow, _power),
    (IndexedSum, _sum),
    (Indexed, _entry),
    (GUARDS, _guard),
    (PartialDerivative, _partial),
    (AtZero, _at_zero),
    (Reduction, _reduction),
    (Masked, _masked),
    (Stopped, _stopped),
    (Quotient | Remainder, _whole_number),
    (Symbol, _symbol),
    (Application | sympy.Max | sympy.Min, _function),
)
