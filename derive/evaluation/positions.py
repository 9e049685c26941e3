"""Evaluation of index expressions: at one point, where every size has a value, they are affine in the indices.

    s p - P + d k   at   s = 2, P = 1, d = 1   ->   2 p + k - 1          (p + P - k)/s   ->   (p - k + 1)/2

Each point computes the affine form once and then only adds it up. An expression that is not affine (an entry of an
integer tensor, a product of two indices) is evaluated node by node.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Symbol

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.nodes import AtMost, Divides, IndexTensor, Within
from derive.evaluation.functions import NotEvaluable

if TYPE_CHECKING:
    from derive.evaluation.points import Point

Environment = dict[Index, int]
Whole = int | Fraction
Scalar = Callable[[Environment, "Point"], Whole]
Affine = tuple[int, tuple[tuple[Index, int], ...], int]
"""``(c, ((i, a), (j, b)), q)`` represents ``(c + a i + b j)/q``."""

_numbers = itertools.count()

CONDITIONS: dict[type[Expr], Callable[[Whole, Whole], bool]] = {
    KroneckerDelta: lambda a, b: a == b,
    Divides: lambda a, b: Fraction(b, a).denominator == 1,
    Within: lambda a, b: 0 <= a < b and a.denominator == 1,
    AtMost: lambda a, b: a <= b,
}
"""The condition for each guard to be 1, in the values of its two sides."""


@lru_cache(maxsize=20_000)
def position(expression: Expr) -> Scalar:
    """Return the evaluator of an index expression; a division that is not exact gives a fraction.

    Raises NotEvaluable for anything but an index expression.
    """
    if isinstance(expression, Index):
        return lambda at, point: at[expression]
    if not _is_affine(expression):
        return _by_node(expression)
    number = next(_numbers)

    def _run(at: Environment, point: Point) -> Whole:
        form = point.forms.get(number)
        if form is None:
            form = point.forms[number] = _affine(expression, point)
        value, terms, divisor = form
        for index, coefficient in terms:
            value += coefficient * at[index]
        if divisor == 1:
            return value
        return Fraction(value, divisor) if value % divisor else value // divisor

    return _run


def _is_affine(expression: Expr) -> bool:
    """Return whether an index expression is affine in its indices for all sizes."""
    if not expression.args:
        return isinstance(expression, Symbol | sympy.Rational)
    if isinstance(expression, Mul) and sum(bool(a.atoms(Index)) for a in expression.args) > 1:
        return False
    if isinstance(expression, Pow):
        return expression.exp.is_Integer and not expression.atoms(Index) and _is_affine(expression.base)
    return isinstance(expression, Add | Mul) and all(_is_affine(a) for a in expression.args)


def _affine(expression: Expr, point: Point) -> Affine:
    """Return the affine form of an expression at a point, over the least common denominator."""
    constant, slopes = _coefficients(expression)
    value = _at(constant, point)
    found = [(index, _at(slope, point)) for index, slope in slopes]
    divisor = math.lcm(value.denominator, *(c.denominator for _, c in found))
    return int(value * divisor), tuple((index, int(c * divisor)) for index, c in found if c), divisor


def _at(coefficient: Expr, point: Point) -> Whole:
    """Return the value of a coefficient, which depends on sizes only, at a point."""
    if isinstance(coefficient, sympy.Integer):
        return int(coefficient)
    if coefficient not in point.coefficients:
        value = coefficient.xreplace({s: sympy.Integer(point.size(s)) for s in coefficient.free_symbols})
        if not value.is_Rational:
            raise ZeroDivisionError(f"{coefficient} at a stride of zero")
        point.coefficients[coefficient] = Fraction(int(value.p), int(value.q))
    return point.coefficients[coefficient]


@lru_cache(maxsize=20_000)
def _coefficients(expression: Expr) -> tuple[Expr, tuple[tuple[Index, Expr], ...]]:
    """Return the constant of an affine expression and the coefficient of each index, all functions of sizes only."""
    if not expression.args:
        return (sympy.S.Zero, ((expression, sympy.S.One),)) if isinstance(expression, Index) else (expression, ())
    if isinstance(expression, Pow):
        return expression, ()
    parts = [_coefficients(a) for a in expression.args]
    if isinstance(expression, Add):
        slopes: dict[Index, Expr] = {}
        for index, slope in (term for _, terms in parts for term in terms):
            slopes[index] = slopes.get(index, sympy.S.Zero) + slope
        return Add(*(constant for constant, _ in parts)), tuple(slopes.items())
    holding = next((k for k, (_, terms) in enumerate(parts) if terms), None)  # at most one factor has indices
    others = Mul(*(constant for k, (constant, _) in enumerate(parts) if k != holding))
    if holding is None:
        return others, ()
    constant, terms = parts[holding]
    return constant * others, tuple((index, slope * others) for index, slope in terms)


def _by_node(expression: Expr) -> Scalar:
    if isinstance(expression, Indexed):
        return _token(expression)
    parts = [position(a) for a in expression.args]
    if isinstance(expression, Add):
        return lambda at, point: sum(part(at, point) for part in parts)
    if isinstance(expression, Mul):
        return lambda at, point: math.prod(part(at, point) for part in parts)
    if isinstance(expression, Pow):
        return lambda at, point: Fraction(parts[0](at, point)) ** int(parts[1](at, point))
    if isinstance(expression, Quotient):
        return lambda at, point: math.floor(parts[0](at, point) // parts[1](at, point))
    if isinstance(expression, Remainder):
        return lambda at, point: int(parts[0](at, point) % int(parts[1](at, point)))
    if isinstance(expression, sympy.Max | sympy.Min):
        return _extreme(parts, max if isinstance(expression, sympy.Max) else min)
    if isinstance(expression, sympy.Abs):
        return lambda at, point: max(parts[0](at, point), -parts[0](at, point))
    raise NotEvaluable(f"{expression} is not an index expression")


def _extreme(parts: Sequence[Scalar], chosen: Callable[[list[Whole]], Whole]) -> Scalar:
    return lambda at, point: chosen([part(at, point) for part in parts])


def _token(expression: Indexed) -> Scalar:
    """Return the evaluator of an entry of an integer tensor; outside it the entry is -1, which is no valid place."""
    base, name = expression.base, str(expression.base.label)
    assert isinstance(base, IndexTensor)
    positions = [position(i) for i in expression.indices]

    def _run(at: Environment, point: Point) -> int:
        where = tuple(int(p(at, point)) for p in positions)
        return point.bits(name, where) % point.size(base.values) if point.inside(name, where) else -1

    return _run
