"""The values and slopes of elementary functions, by this package's own table: SymPy's derivatives are not asked.

A function has no slope at a corner (``abs`` at 0, ``max`` at a tie): there ``NotEvaluable`` is raised, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from sympy import Expr

Number = Any
_DIGITS = 65


class NotEvaluable(ValueError):
    """The expression has no value here in these numbers (no root, division by zero, a corner, an unknown function)."""


@dataclass(frozen=True)
class Rule:
    """A function: its value at its arguments, and its slope in each of them given arguments and value."""

    value: Callable[[Sequence[Number]], Number]
    slopes: Callable[[Sequence[Number], Number], list[Number]]


def of_one(value: Callable[[Number], Number], slope: Callable[[Number, Number], Number]) -> Rule:
    """Return the rule of a function of one argument, from its value and its slope at argument and value."""
    return Rule(lambda a: value(a[0]), lambda a, v: [slope(a[0], v)])


def _sign(a: Number) -> int:
    return (a > 0) - (a < 0)


def _away(a: Number, slope: Number) -> Number:
    """Return a slope that exists away from zero only."""
    if a == 0:
        raise NotEvaluable("a corner: no slope at zero")
    return slope


def _step(a: Number) -> Number:
    return Fraction(1, 2) if a == 0 and isinstance(a, Fraction) else Decimal("0.5") if a == 0 else int(a > 0)


def _of_extreme(arguments: Sequence[Number], value: Number) -> list[Number]:
    """Return slope one where the extreme is attained; a tie is a corner."""
    if sum(a == value for a in arguments) > 1:
        raise NotEvaluable("a corner: a tie of two arguments")
    return [int(a == value) for a in arguments]


OF_ORDER: Mapping[type[Expr], Rule] = {
    sympy.Abs: of_one(abs, lambda a, v: _away(a, _sign(a))),
    sympy.sign: of_one(_sign, lambda a, v: _away(a, 0)),
    sympy.Heaviside: Rule(lambda a: _step(a[0]), lambda a, v: [_away(a[0], 0), *(0 for _ in a[1:])]),
    sympy.Max: Rule(max, _of_extreme),
    sympy.Min: Rule(min, _of_extreme),
}


def _borrowed(function: Callable[[Any], Any]) -> Callable[[Number], Number]:
    """Return a function of decimals by mpmath, for what decimals do not know themselves."""

    def value(argument: Number) -> Number:
        """Return the function at a real argument; raise ``NotEvaluable`` where it is not real."""
        with mpmath.workdps(_DIGITS):
            found = function(mpmath.mpf(str(argument)))
            if not isinstance(found, mpmath.mpf) or not mpmath.isfinite(found):
                raise NotEvaluable(f"{function.__name__} is not real here")
            return +Decimal(mpmath.nstr(found, _DIGITS))

    return value


def _log(a: Number) -> Number:
    if a <= 0:
        raise NotEvaluable("logarithm of a number that is not positive")
    return Decimal(a).ln()


def _exp(a: Number) -> Number:
    if abs(a) > 10_000:
        raise NotEvaluable("an exponential too large or too small")
    return Decimal(a).exp()


def _bell(a: Number) -> Number:
    """Return the slope of ``erf``: ``2/sqrt(pi) exp(-a^2)``."""
    return _borrowed(lambda x: 2 * mpmath.exp(-x * x) / mpmath.sqrt(mpmath.pi))(a)


OF_REALS: Mapping[type[Expr], Rule] = {
    sympy.exp: of_one(_exp, lambda a, v: v),
    sympy.log: of_one(_log, lambda a, v: 1 / Decimal(a)),
    sympy.sin: of_one(_borrowed(mpmath.sin), lambda a, v: _borrowed(mpmath.cos)(a)),
    sympy.cos: of_one(_borrowed(mpmath.cos), lambda a, v: -_borrowed(mpmath.sin)(a)),
    sympy.tan: of_one(_borrowed(mpmath.tan), lambda a, v: 1 + v * v),
    sympy.tanh: of_one(_borrowed(mpmath.tanh), lambda a, v: 1 - v * v),
    sympy.sinh: of_one(_borrowed(mpmath.sinh), lambda a, v: _borrowed(mpmath.cosh)(a)),
    sympy.cosh: of_one(_borrowed(mpmath.cosh), lambda a, v: _borrowed(mpmath.sinh)(a)),
    sympy.atan: of_one(_borrowed(mpmath.atan), lambda a, v: 1 / (1 + Decimal(a) * a)),
    sympy.asin: of_one(_borrowed(mpmath.asin), lambda a, v: 1 / (1 - Decimal(a) * a).sqrt()),
    sympy.acos: of_one(_borrowed(mpmath.acos), lambda a, v: -1 / (1 - Decimal(a) * a).sqrt()),
    sympy.erf: of_one(_borrowed(mpmath.erf), lambda a, v: _bell(a)),
}
