"""Exact evaluation of indexed sums at small sizes: the independent route by which every step is checked.

Entries are random elements of the field of integers modulo the prime 2^61 - 1, drawn from a seed by name and position.
Square roots are exact: the prime is 3 modulo 4, so one root of a square is itself a square, and that choice is
multiplicative. Derivatives are taken by dual numbers (value and slope), never by the rules that are being checked.
Transcendental functions need real numbers: the same interpreter then runs at 60 digits.

Nothing is rewritten here: no delta is eliminated, no sum is split.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mpmath
import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow, Symbol

from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import AtZero, Divides, IndexedSum, IndexTensor, PartialDerivative, Within

PRIME = 2**61 - 1
_DIGITS = 60

Number = Any
Jet = tuple[Number, Number]


class NotEvaluable(ValueError):
    """The expression cannot be evaluated in this field at this point (no root, division by zero, no exact value)."""


class Modular:
    """The integers modulo 2^61 - 1."""

    name = "exact modulo 2^61-1"

    def constant(self, value: sympy.Rational) -> int:
        """Return a rational number as an element."""
        if value.q % PRIME == 0:
            raise NotEvaluable("denominator divisible by the prime")
        return int(value.p) * pow(int(value.q), -1, PRIME) % PRIME

    def random(self, seed: int, positive: bool) -> int:
        """Return an element from 64 random bits; a positive one is a square."""
        value = seed % PRIME
        return value * value % PRIME if positive else value

    def tidy(self, value: int) -> int:
        """Reduce modulo the prime."""
        return value % PRIME

    def power(self, base: int, exponent: sympy.Rational) -> int:
        """Return ``base ** exponent`` for an integer or half-integer exponent."""
        if exponent.q == 2:
            base = self._root(base)
        elif exponent.q != 1:
            raise NotEvaluable(f"no exact power {exponent}")
        whole = int(exponent.p)
        if whole < 0 and base == 0:
            raise NotEvaluable("division by zero")
        return pow(base, whole, PRIME)

    def _root(self, base: int) -> int:
        root = pow(base, (PRIME + 1) // 4, PRIME)
        if root * root % PRIME != base:
            raise NotEvaluable("not a square")
        return root

    def apply(self, function: Expr, arguments: list[int]) -> int:
        """Elementary functions have no value in this field."""
        raise NotEvaluable(f"{type(function).__name__} has no exact value")

    def same(self, left: int, right: int) -> bool:
        """Return whether two elements are equal."""
        return (left - right) % PRIME == 0


class Real:
    """Real numbers at 60 digits."""

    name = f"{_DIGITS} digits"

    def constant(self, value: sympy.Expr) -> mpmath.mpf:
        """Return a number as a real."""
        with mpmath.workdps(_DIGITS):
            return mpmath.mpf(int(value.p)) / int(value.q) if value.is_Rational else mpmath.mpmathify(value.n(_DIGITS))

    def random(self, seed: int, positive: bool) -> mpmath.mpf:
        """Return a real in (1/2, 2), with a random sign unless it must be positive."""
        with mpmath.workdps(_DIGITS):
            size = mpmath.mpf(1) / 2 + mpmath.mpf(3 * (seed % 9973)) / (2 * 9973)
        return size if positive or seed & (1 << 40) else -size

    def tidy(self, value: mpmath.mpf) -> mpmath.mpf:
        """Reals need no reduction."""
        return value

    def power(self, base: mpmath.mpf, exponent: sympy.Expr) -> mpmath.mpf:
        """Return the real power; a negative base with a broken exponent is refused."""
        if base == 0 and exponent.is_negative:
            raise NotEvaluable("division by zero")
        if base < 0 and not exponent.is_Integer:
            raise NotEvaluable("root of a negative number")
        with mpmath.workdps(_DIGITS):
            return base ** (int(exponent) if exponent.is_Integer else self.constant(exponent))

    def apply(self, function: Expr, arguments: list[mpmath.mpf]) -> mpmath.mpf:
        """Return an elementary function's value."""
        with mpmath.workdps(_DIGITS):
            exact = [sympy.Float(str(a), _DIGITS) for a in arguments]
            value = function.func(*exact).evalf(_DIGITS)
        if not value.is_real:
            raise NotEvaluable(f"{type(function).__name__} is not real here")
        return mpmath.mpf(str(value))

    def same(self, left: mpmath.mpf, right: mpmath.mpf) -> bool:
        """Return whether two reals agree to 40 digits."""
        with mpmath.workdps(_DIGITS):
            scale = max(mpmath.mpf(1), abs(left), abs(right))
            return bool(abs(left - right) <= scale * mpmath.mpf(10) ** -40)


@dataclass
class Point:
    """One evaluation point: sizes, free indices and a seed from which every entry and scalar follows."""

    seed: int
    sizes: dict[Symbol, int]
    field: Modular | Real
    scope: Mapping[IndexedBase, Any]
    perturbed: tuple[str, tuple[int, ...]] | None = None
    memory: dict[Any, Jet] = field(default_factory=dict)

    def size(self, expression: Expr) -> int:
        """Return the value of a size expression."""
        if expression in self.sizes:
            return self.sizes[expression]
        value = expression.xreplace({s: sympy.Integer(v) for s, v in self.sizes.items()})
        if not value.is_Integer:
            raise NotEvaluable(f"size {expression} has no integer value here")
        return int(value)

    def draw(self, name: str, indices: tuple[int, ...], positive: bool = False) -> Number:
        """Return the entry of an unknown tensor: a function of seed, name and position alone."""
        return self.field.random(self.bits(name, indices), positive)

    def bits(self, name: str, indices: tuple[int, ...]) -> int:
        """Return 64 random bits for a name and a position."""
        digest = hashlib.blake2b(f"{self.seed}/{name}/{indices}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")


Environment = dict[Index, int]


def integer(expression: Expr, at: Environment, point: Point) -> sympy.Rational:
    """Return the value of an index expression (rational where a division is not exact)."""
    if isinstance(expression, sympy.Integer):
        return expression
    if isinstance(expression, Index):
        return sympy.Integer(at[expression])
    if isinstance(expression, Indexed):
        assert isinstance(expression.base, IndexTensor)
        indices = tuple(int(integer(i, at, point)) for i in expression.indices)
        values = point.size(expression.base.values)
        return sympy.Integer(point.bits(str(expression.base), indices) % values)
    if isinstance(expression, Symbol):
        return sympy.Integer(point.size(expression))
    if not expression.args:
        return expression
    return expression.func(*(integer(a, at, point) for a in expression.args))


def evaluate(expression: Expr, at: Environment, point: Point) -> Jet:
    """Return value and slope of an expression at a point, with free indices given by ``at``."""
    if isinstance(expression, sympy.Number | sympy.NumberSymbol):
        return point.field.constant(expression), 0
    if isinstance(expression, Add):
        return _add([evaluate(a, at, point) for a in expression.args], point)
    if isinstance(expression, Mul):
        return _multiply(expression, at, point)
    if isinstance(expression, Pow):
        return _power(evaluate(expression.base, at, point), expression.exp, at, point)
    if isinstance(expression, IndexedSum):
        return _sum(expression, at, point)
    if isinstance(expression, Indexed):
        return _entry(expression, at, point)
    if is_guard(expression):
        return _guard(expression, at, point), 0
    if isinstance(expression, PartialDerivative):
        return _partial(expression, at, point), 0
    if isinstance(expression, AtZero):
        return _at_zero(expression, at, point), 0
    if isinstance(expression, Symbol):
        return _symbol(expression, at, point)
    return _function(expression, at, point)


def _add(jets: list[Jet], point: Point) -> Jet:
    return point.field.tidy(sum(v for v, _ in jets)), point.field.tidy(sum(d for _, d in jets))


def _multiply(expression: Mul, at: Environment, point: Point) -> Jet:
    """Multiply, guards first: what a guard excludes (an entry outside its tensor) is never looked at."""
    for factor in expression.args:
        if is_guard(factor) and _guard(factor, at, point) == 0:
            return 0, 0
    value, slope = 1, 0
    for factor in expression.args:
        v, d = evaluate(factor, at, point)
        value, slope = point.field.tidy(value * v), point.field.tidy(value * d + slope * v)
    return value, slope


def _power(base: Jet, exponent: Expr, at: Environment, point: Point) -> Jet:
    if not exponent.is_Rational:
        exponent = integer(exponent, at, point)
    value = point.field.power(base[0], exponent)
    if base[1] == 0:
        return value, 0
    slope = point.field.power(base[0], exponent - 1) * point.field.constant(exponent) * base[1]
    return value, point.field.tidy(slope)


def _sum(expression: IndexedSum, at: Environment, point: Point) -> Jet:
    ranges = [range(point.size(index.size)) for index in expression.bound]
    values, slopes = 0, 0
    for position in itertools.product(*ranges):
        v, d = evaluate(expression.body, {**at, **dict(zip(expression.bound, position, strict=True))}, point)
        values, slopes = values + v, slopes + d
    return point.field.tidy(values), point.field.tidy(slopes)


def _entry(expression: Indexed, at: Environment, point: Point) -> Jet:
    exact = [integer(i, at, point) for i in expression.indices]
    if any(not i.is_Integer for i in exact):
        raise NotEvaluable(f"broken index in {expression}")
    indices = tuple(int(i) for i in exact)
    name = str(expression.base.label)
    key = (name, indices)
    if key not in point.memory:
        definition = point.scope.get(expression.base)
        if definition is None:
            point.memory[key] = point.draw(name, indices), int(point.perturbed == key)
        else:
            inner = dict(zip(definition.indices, indices, strict=True))
            point.memory[key] = evaluate(definition.expression, inner, point)
    return point.memory[key]


def _guard(expression: Expr, at: Environment, point: Point) -> int:
    left, right = (integer(a, at, point) for a in expression.args)
    if isinstance(expression, KroneckerDelta):
        return int(left == right)
    if isinstance(expression, Divides):
        return int((right / left).is_Integer)
    assert isinstance(expression, Within)
    return int(bool(0 <= left < right) and bool(left.is_Integer))


def _symbol(symbol: Symbol, at: Environment, point: Point) -> Jet:
    if isinstance(symbol, Index):
        return point.field.constant(sympy.Integer(at[symbol])), 0
    if symbol in point.sizes:
        return point.field.constant(sympy.Integer(point.sizes[symbol])), 0
    key = (symbol.name, ())
    if key not in point.memory:
        point.memory[key] = point.draw(symbol.name, (), bool(symbol.is_positive)), int(point.perturbed == key)
    return point.memory[key]


def _perturbed(point: Point, key: tuple[str, tuple[int, ...]]) -> Point:
    return Point(point.seed, point.sizes, point.field, point.scope, key)


def _partial(expression: PartialDerivative, at: Environment, point: Point) -> Number:
    variable = expression.variable
    indices: tuple[int, ...] = ()
    if isinstance(variable, Indexed):
        indices = tuple(int(integer(i, at, point)) for i in variable.indices)
    name = str(variable.base.label) if isinstance(variable, Indexed) else variable.name
    key = ("shadow", name, indices)
    inner = point.memory.setdefault(key, _perturbed(point, (name, indices)))  # type: ignore[arg-type]
    return evaluate(expression.expression, at, inner)[1]  # type: ignore[arg-type]


def _at_zero(expression: AtZero, at: Environment, point: Point) -> Number:
    inner = _perturbed(point, (expression.args[1].name, ()))
    inner.memory[(expression.args[1].name, ())] = (0, 1)
    return evaluate(expression.args[0], at, inner)[1]


def _function(expression: Expr, at: Environment, point: Point) -> Jet:
    from derive.algebra.differentiate import outer_derivative

    jets = [evaluate(a, at, point) for a in expression.args]
    values = [v for v, _ in jets]
    value = point.field.apply(expression, values)
    slope: Number = 0
    for position, (_, d) in enumerate(jets, start=1):
        if d != 0:
            slots = [sympy.Dummy(real=True) for _ in jets]
            outer = outer_derivative(expression.func(*slots), position)
            slope += _scalar(outer, dict(zip(slots, values, strict=True)), point) * d
    return value, slope


def _scalar(expression: Expr, values: dict[Symbol, Number], point: Point) -> Number:
    """Evaluate a scalar expression of plain symbols."""
    inner = Point(point.seed, {}, point.field, {})
    inner.memory.update({(s.name, ()): (v, 0) for s, v in values.items()})
    renamed = {s: Symbol(f"{s.name}", real=True) for s in values}
    return evaluate(expression.xreplace(renamed), {}, inner)[0]
