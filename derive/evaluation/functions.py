"""The values and slopes of elementary functions, by this package's own table, without SymPy's derivatives.

A function has no slope at a corner (``abs`` at 0, ``max`` at a tie): there ``NotEvaluable`` is raised, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
import sympy
from sympy import Expr

from derive.algebra.named import named
from derive.algebra.reductions import Attains, Softmax

Number = Any
_DIGITS = 65
_MOST_VALUES = 4_000


class NotEvaluable(ValueError):
    """The expression has no value here in these numbers (no root, division by zero, a corner, an unknown function)."""


@dataclass(frozen=True)
class Rule:
    """A function: its value, and its slope with respect to each argument from arguments and value."""

    value: Callable[[Sequence[Number]], Number]
    slopes: Callable[[Sequence[Number], Number], list[Number]]


def of_one(value: Callable[[Number], Number], slope: Callable[[Number, Number], Number]) -> Rule:
    """Return the rule of a function of one argument, from its value and its slope at argument and value."""
    return Rule(lambda a: value(a[0]), lambda a, v: [slope(a[0], v)])


def _sign(a: Number) -> int:
    return (a > 0) - (a < 0)


def _away(a: Number, slope: Number) -> Number:
    """Return a slope that exists only away from zero."""
    if a == 0:
        raise NotEvaluable("a corner: no slope at zero")
    return slope


def _step(a: Number) -> Number:
    return Fraction(1, 2) if a == 0 and isinstance(a, Fraction) else Decimal("0.5") if a == 0 else int(a > 0)


def _of_extreme(arguments: Sequence[Number], value: Number) -> list[Number]:
    """Return slope one at the argument that attains the extreme; a tie is a corner."""
    if sum(a == value for a in arguments) > 1:
        raise NotEvaluable("a corner: a tie of two arguments")
    return [int(a == value) for a in arguments]


def _attains(arguments: Sequence[Number]) -> int:
    """Return whether a value is the largest, up to the rounding of a sum in another order."""
    one, largest = arguments
    if isinstance(largest, Decimal):
        return int(abs(Decimal(one) - largest) <= max(Decimal(1), abs(largest)).scaleb(-40))
    return int(one == largest)


OF_ORDER: Mapping[type[Expr], Rule] = {
    sympy.Abs: of_one(abs, lambda a, v: _away(a, _sign(a))),
    sympy.sign: of_one(_sign, lambda a, v: _away(a, 0)),
    sympy.Heaviside: Rule(lambda a: _step(a[0]), lambda a, v: [_away(a[0], 0), *(0 for _ in a[1:])]),
    sympy.Max: Rule(max, _of_extreme),
    sympy.Min: Rule(min, _of_extreme),
    Attains: Rule(_attains, lambda a, v: [0, 0]),
    named("relu"): of_one(lambda a: max(a, 0), lambda a, v: _away(a, int(a > 0))),
}


def _borrowed(function: Callable[[Any], Any]) -> Callable[[Number], Number]:
    """Return a function of decimals by mpmath, for functions that decimals lack; values are cached.

    A sum needs the same value in many terms, and mpmath takes most of the time.
    """

    @lru_cache(maxsize=_MOST_VALUES)
    def value(argument: Number) -> Number:
        """Return the function at a real argument; raise ``NotEvaluable`` where it is not real."""
        with mpmath.workdps(_DIGITS):
            found = function(mpmath.mpf(str(argument)))
            if not isinstance(found, mpmath.mpf) or not mpmath.isfinite(found):
                raise NotEvaluable("a function is not real here")
            return +Decimal(mpmath.nstr(found, _DIGITS))

    return value


def _log(a: Number) -> Number:
    if a <= 0:
        raise NotEvaluable("logarithm of a number that is not positive")
    return Decimal(a).ln()


@lru_cache(maxsize=_MOST_VALUES)
def _exp(a: Number) -> Number:
    if abs(a) > 10_000:
        raise NotEvaluable("an exponential too large or too small")
    return Decimal(a).exp()


def _share(score: Number, whole: Number) -> Number:
    """Return the weight of a score in the whole; that of a masked score is zero."""
    return Decimal(0) if score == Decimal("-Infinity") else _exp(score - whole)


def _bell(a: Number) -> Number:
    """Return the slope of ``erf``: ``2/sqrt(pi) exp(-a^2)``."""
    return _erf_slope(a)


_erf_slope = _borrowed(lambda x: 2 * mpmath.exp(-x * x) / mpmath.sqrt(mpmath.pi))


def _bell_curve(x: Any) -> Any:
    return mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)


def _below(x: Any) -> Any:
    return (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2


def _logistic(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _logistic_slope(x: Any) -> Any:
    return _logistic(x) * _logistic(-x)


def _wave(x: Any) -> tuple[Any, Any, Any]:
    """Return ``tanh(u)`` of the approximate gelu's ``u = sqrt(2/pi) (x + c x^3)`` and its two derivatives."""
    scale, c = mpmath.sqrt(2 / mpmath.pi), mpmath.mpf(44715) / 10**6
    t, first, second = mpmath.tanh(scale * (x + c * x**3)), scale * (1 + 3 * c * x * x), scale * 6 * c * x
    bend = 1 - t * t
    return t, bend * first, bend * (second - 2 * t * first**2)


_NAMES: Mapping[str, list[Callable[[Any], Any]]] = {
    "sigmoid": [_logistic, _logistic_slope, lambda x: _logistic_slope(x) * (1 - 2 * _logistic(x))],
    "softplus": [lambda x: mpmath.log1p(mpmath.exp(x)), _logistic, _logistic_slope],
    "silu": [
        lambda x: x * _logistic(x),
        lambda x: _logistic(x) + x * _logistic_slope(x),
        lambda x: _logistic_slope(x) * (2 + x * (1 - 2 * _logistic(x))),
    ],
    "gelu": [
        lambda x: x * _below(x),
        lambda x: _below(x) + x * _bell_curve(x),
        lambda x: _bell_curve(x) * (2 - x * x),
    ],
    "erf": [
        mpmath.erf,
        lambda x: 2 * mpmath.exp(-x * x) / mpmath.sqrt(mpmath.pi),
        lambda x: -4 * x * mpmath.exp(-x * x) / mpmath.sqrt(mpmath.pi),
    ],
    "elu": [
        lambda x: x if x > 0 else mpmath.expm1(x),
        lambda x: mpmath.mpf(1) if x > 0 else mpmath.exp(x),
        lambda x: mpmath.mpf(0) if x > 0 else mpmath.exp(x),
    ],
    "gelu_tanh": [
        lambda x: x * (1 + _wave(x)[0]) / 2,
        lambda x: (1 + _wave(x)[0] + x * _wave(x)[1]) / 2,
        lambda x: _wave(x)[1] + x * _wave(x)[2] / 2,
    ],
}
"""The named functions and their first derivatives, written by hand, not taken from ``algebra.named``."""


def _by_name() -> dict[type[Expr], Rule]:
    """Return the rule of each named function and of its derivative."""
    found: dict[type[Expr], Rule] = {}
    for stem, functions in _NAMES.items():
        value, slope, bend = map(_borrowed, functions)
        found[named(stem)] = _sloped(value, slope)
        found[named(stem, 1)] = _sloped(slope, bend)
    return found


def _sloped(value: Callable[[Number], Number], slope: Callable[[Number], Number]) -> Rule:
    return of_one(value, lambda a, v: slope(a))


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
    Softmax: Rule(lambda a: _share(*a), lambda a, v: [v, -v]),
    **_by_name(),
}
