"""Fit numbers known at several sizes by the simplest formula in the sizes.

    integers   c0 + c1 m1 + c2 m2        monomials m of degree 4 at most, integer coefficients
    decimals   rational * p**e           p such a polynomial, e one of 1, -1, 1/2, -1/2; else one number throughout

A fit must hold at every point, and there are more points than coefficients. None means that no formula fits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import sympy
from sympy import Expr, Rational, Symbol

Point = Mapping[Symbol, int]
_EXPONENTS = (Rational(1), Rational(-1), Rational(1, 2), Rational(-1, 2))
_CLOSE = 1e-12
_SHORT_DIGITS = 9
_DENOMINATORS = range(1, 13)


class Fitter:
    """Fits formulas in the sizes to numbers, one number a point; results are cached."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)
        symbols = sorted({s for point in points for s in point}, key=str)
        self._monomials = [*_monomials(symbols)]
        self._columns = [[int(_value(m, point)) for point in points] for m in self._monomials]
        self._known: dict[tuple[int | float, ...], Expr | None] = {}

    def integer(self, values: Sequence[int]) -> Expr | None:
        """Return the polynomial with these integer values, one a point: fewest terms first, then lowest degree."""
        key = tuple(values)
        if key not in self._known:
            self._known[key] = self._integer(key)
        return self._known[key]

    def real(self, values: Sequence[float]) -> Expr | None:
        """Return ``rational * p**e`` (see the module) with these values, one a point."""
        if len(set(values)) == 1:
            return number(values[0])
        if not all(map(math.isfinite, values)):
            return None
        for exponent in _EXPONENTS:
            found = self._power(values, exponent)
            if found is not None:
                return found
        return None

    def _integer(self, values: tuple[int, ...]) -> Expr | None:
        if len(set(values)) == 1:
            return sympy.Integer(values[0])
        for count in (1, 2):
            for chosen in itertools.combinations(range(len(self._monomials)), count):
                solved = _solved([self._columns[k] for k in chosen], values)
                if solved is not None:
                    constant, *rest = solved
                    return sympy.Add(constant, *(c * self._monomials[k] for c, k in zip(rest, chosen, strict=True)))
        return None

    def _power(self, values: Sequence[float], exponent: Rational) -> Expr | None:
        sign = -1 if all(v < 0 for v in values) else 1
        if any(v * sign <= 0 for v in values) and exponent != 1:
            return None
        for monomial, column in zip(self._monomials, self._columns, strict=True):
            ratios = [v / m ** float(exponent) for v, m in zip(values, column, strict=True)]
            if max(ratios) - min(ratios) <= _CLOSE * abs(ratios[0]):
                return number(ratios[0]) * monomial**exponent
        bases = [v if exponent == 1 else (v * sign) ** float(1 / exponent) for v in values]
        for denominator in _DENOMINATORS:
            scaled = [b * denominator for b in bases]
            whole = [round(v) for v in scaled]
            if all(abs(v - w) <= _CLOSE * max(1.0, abs(v)) for v, w in zip(scaled, whole, strict=True)):
                found = self.integer(whole)
                if found is not None:
                    base = found / denominator
                    return base if exponent == 1 else sign * base**exponent
        return None


def number(value: float) -> Expr:
    """Return a constant as an exact number: a short decimal, else a root of a fraction, else the binary fraction."""
    if not math.isfinite(value):
        return sympy.nan if math.isnan(value) else sympy.oo * int(math.copysign(1, value))
    if abs(value - round(value)) <= _CLOSE * abs(value) and abs(value) >= 1 / 2:
        return sympy.Integer(round(value))
    digits = repr(value).lstrip("-0.").split("e")[0].replace(".", "")
    if len(digits) <= _SHORT_DIGITS:
        return Rational(repr(value))
    for root in (1, 2):
        near = Fraction(abs(value) ** root).limit_denominator(10_000)
        if near and abs(float(near) ** (1 / root) - abs(value)) <= 4e-16 * abs(value):
            found = Rational(near.numerator, near.denominator) ** Rational(1, root)
            return found if value > 0 else -found
    exact = Fraction(value)
    return Rational(exact.numerator, exact.denominator)


def _monomials(symbols: Sequence[Symbol]) -> Iterator[Expr]:
    """Yield the monomials of degree 1, then 2, then 3, then 4."""
    for degree in (1, 2, 3, 4):
        for factors in itertools.combinations_with_replacement(symbols, degree):
            yield sympy.Mul(*factors)


def _value(expression: Expr, point: Point) -> Expr:
    return expression.xreplace({s: sympy.Integer(v) for s, v in point.items()})


def _solved(columns: Sequence[Sequence[int]], values: Sequence[int]) -> list[int] | None:
    """Return the integers ``c0, c1, ..`` with ``c0 + c1 column1 + .. = values`` at every point, all but c0 non-zero."""
    if len(columns) == 1:
        return _line(columns[0], values)
    first, second = columns
    for i, j in itertools.combinations(range(1, len(values)), 2):
        a, b = first[i] - first[0], second[i] - second[0]
        c, d = first[j] - first[0], second[j] - second[0]
        determinant = a * d - b * c
        if determinant:
            u, v = values[i] - values[0], values[j] - values[0]
            x, y = Fraction(u * d - b * v, determinant), Fraction(a * v - u * c, determinant)
            if x.denominator != 1 or y.denominator != 1 or not x or not y:
                return None
            p, q = int(x), int(y)
            constant = values[0] - p * first[0] - q * second[0]
            rows = zip(first, second, values, strict=True)
            return [constant, p, q] if all(constant + p * m + q * n == w for m, n, w in rows) else None
    return None


def _line(column: Sequence[int], values: Sequence[int]) -> list[int] | None:
    k = next((k for k, entry in enumerate(column) if entry != column[0]), None)
    if k is None or (values[k] - values[0]) % (column[k] - column[0]):
        return None
    slope = (values[k] - values[0]) // (column[k] - column[0])
    constant = values[0] - slope * column[0]
    fits = slope and all(constant + slope * m == v for m, v in zip(column, values, strict=True))
    return [constant, slope] if fits else None
