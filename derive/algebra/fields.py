"""The number fields in which expressions are evaluated: exact arithmetic modulo a prime, and reals at 60 digits.

Square roots modulo the prime are exact: the prime is 3 modulo 4, so one root of a square is itself a square, and that
choice is multiplicative. Elements without a root, and divisions by zero, raise ``NotEvaluable``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mpmath
import sympy
from sympy import Expr

PRIME = 2**61 - 1
DIVISION = "division by zero"
_DIGITS = 60
_LOST = mpmath.mpf(10) ** (-_DIGITS // 2)  # entries are of order one: what is smaller than this is a rounding error


class NotEvaluable(ValueError):
    """The expression cannot be evaluated in this field at this point (no root, division by zero, no exact value)."""


class Modular:
    """The integers modulo 2^61 - 1."""

    name = "exact modulo 2^61-1"

    def precision(self) -> AbstractContextManager[Any]:
        """Integers need no precision."""
        return nullcontext()

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
            raise NotEvaluable(DIVISION)
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
    """Real numbers at 60 digits; to be used inside ``precision``."""

    name = f"{_DIGITS} digits"

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which every operation keeps 60 digits."""
        context: AbstractContextManager[Any] = mpmath.workdps(_DIGITS)
        return context

    def constant(self, value: sympy.Expr) -> mpmath.mpf:
        """Return a number as a real."""
        return mpmath.mpf(int(value.p)) / int(value.q) if value.is_Rational else mpmath.mpmathify(value.n(_DIGITS))

    def random(self, seed: int, positive: bool) -> mpmath.mpf:
        """Return a real in (1/2, 2), with a random sign unless it must be positive."""
        size = mpmath.mpf(1) / 2 + mpmath.mpf(3 * (seed % 9973)) / (2 * 9973)
        return size if positive or seed & (1 << 40) else -size

    def tidy(self, value: mpmath.mpf) -> mpmath.mpf:
        """Reals need no reduction."""
        return value

    def power(self, base: mpmath.mpf, exponent: sympy.Expr) -> mpmath.mpf:
        """Return the real power; a negative base with a broken exponent is refused, and so is one lost in rounding."""
        base = mpmath.mpf(base)  # a size is a whole number, whose inverse Python would round to 16 digits
        if exponent.is_negative and abs(base) < _LOST:
            raise NotEvaluable(DIVISION)
        if not exponent.is_Integer and (base < 0 or 0 < base < _LOST):
            raise NotEvaluable("root of a negative number or of one that nearly vanishes")
        return base ** (int(exponent) if exponent.is_Integer else self.constant(exponent))

    def apply(self, function: Expr, arguments: list[mpmath.mpf]) -> mpmath.mpf:
        """Return an elementary function's value."""
        exact = [sympy.Float(a, _DIGITS) for a in arguments]
        value = function.func(*exact).evalf(_DIGITS)
        if not value.is_real:
            raise NotEvaluable(f"{type(function).__name__} is not real here")
        return mpmath.mpmathify(value)

    def same(self, left: mpmath.mpf, right: mpmath.mpf) -> bool:
        """Return whether two reals agree to 40 digits."""
        scale = max(mpmath.mpf(1), abs(left), abs(right))
        return bool(abs(left - right) <= scale * mpmath.mpf(10) ** -40)
