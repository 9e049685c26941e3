"""The number types of the evaluation, each exact for the expressions that it takes.

    Modular    the integers modulo a prime       rational expressions
    Ordered    fractions                         also functions that need an order: abs, sign, max, min
    Real       decimals of 60 digits             roots and transcendental functions

A prime field has two square roots of a number or none, and no order, so no root is taken there: an expression with a
root is evaluated in decimals, where the root of a positive number is positive.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sympy import Expr

from derive.evaluation.functions import OF_ORDER, OF_REALS, NotEvaluable

PRIME = 2**61 - 1
DIVISION = "division by zero"
DIGITS = 60
_LOST = Decimal(10) ** (-DIGITS // 2)  # entries are of order one: smaller numbers are rounding errors
_SAME = Decimal(10) ** -40
_CONTEXT = decimal.Context(
    prec=DIGITS,
    Emin=-99_999,
    Emax=99_999,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)


class Modular:
    """The integers modulo 2^61 - 1."""

    name = "exact modulo 2^61-1"
    lowest = None  # this field has no order

    def context(self) -> AbstractContextManager[Any]:
        """Integers need no context."""
        return nullcontext()

    def constant(self, value: Expr) -> int:
        """Return a rational number as an element."""
        if not value.is_Rational or value.q % PRIME == 0:
            raise NotEvaluable(f"{value} has no exact value")
        return int(value.p) * pow(int(value.q), -1, PRIME) % PRIME

    def random(self, bits: int, positive: bool) -> int:
        """Return an element from 64 random bits; no element is positive here."""
        return bits % PRIME

    def tidy(self, value: int) -> int:
        """Reduce modulo the prime."""
        return value % PRIME

    def power(self, base: int, exponent: Expr) -> int:
        """Return ``base ** exponent`` for an integer exponent."""
        if not exponent.is_Integer:
            raise NotEvaluable(f"the power {exponent} has no exact value")
        if exponent.is_negative and base % PRIME == 0:
            raise NotEvaluable(DIVISION)
        return pow(base, int(exponent), PRIME)

    def real_power(self, base: int, exponent: int) -> int:
        """Refuse a power that is no integer."""
        raise NotEvaluable("a real power has no exact value")

    def value(self, kind: type[Expr], arguments: Sequence[Any]) -> int:
        """Refuse every function: none is rational."""
        raise NotEvaluable(f"{kind.__name__} has no exact value")

    def slopes(self, kind: type[Expr], arguments: Sequence[Any], value: Any) -> list[Any]:
        """Refuse every function: none is rational."""
        raise NotEvaluable(f"{kind.__name__} has no exact value")

    def weight(self, value: Any) -> Any:
        """Return how well a number serves as a pivot; 0 for one that is no divisor."""
        return int(value % PRIME != 0)

    def inverse(self, value: Any) -> Any:
        """Return one over a number that is a divisor."""
        return pow(value, -1, PRIME)

    def same(self, left: int, right: int) -> bool:
        """Return whether two elements are equal."""
        return (left - right) % PRIME == 0


class Ordered:
    """Fractions: exact, and ordered."""

    name = "exact fractions"
    lowest = float("-inf")

    def context(self) -> AbstractContextManager[Any]:
        """Fractions need no context."""
        return nullcontext()

    def constant(self, value: Expr) -> Fraction:
        """Return a rational number."""
        if not value.is_Rational:
            raise NotEvaluable(f"{value} has no exact value")
        return Fraction(int(value.p), int(value.q))

    def random(self, bits: int, positive: bool) -> Fraction:
        """Return a fraction in (1/2, 2), with a random sign unless it must be positive."""
        size = Fraction(33 + bits % 95, 64)
        return size if positive or bits & (1 << 40) else -size

    def tidy(self, value: Fraction) -> Fraction:
        """Fractions need no reduction."""
        return value

    def power(self, base: Fraction, exponent: Expr) -> Fraction:
        """Return ``base ** exponent`` for an integer exponent."""
        if not exponent.is_Integer:
            raise NotEvaluable(f"the power {exponent} has no exact value")
        if exponent.is_negative and base == 0:
            raise NotEvaluable(DIVISION)
        return Fraction(base) ** int(exponent)

    def real_power(self, base: Fraction, exponent: Fraction) -> Fraction:
        """Refuse a power that is no integer."""
        raise NotEvaluable("a real power has no exact value")

    def value(self, kind: type[Expr], arguments: Sequence[Any]) -> Fraction:
        """Return the value of a function that needs only an order."""
        if kind not in OF_ORDER:
            raise NotEvaluable(f"{kind.__name__} has no exact value")
        return OF_ORDER[kind].value(arguments)

    def slopes(self, kind: type[Expr], arguments: Sequence[Any], value: Any) -> list[Any]:
        """Return the slope of such a function in each argument."""
        return OF_ORDER[kind].slopes(arguments, value)

    def weight(self, value: Any) -> Any:
        """Return how well a number serves as a pivot; 0 for one that is no divisor."""
        return abs(value)

    def inverse(self, value: Any) -> Any:
        """Return one over a number that is a divisor."""
        return 1 / Fraction(value)

    def same(self, left: Fraction, right: Fraction) -> bool:
        """Return whether two fractions are equal."""
        return left == right


class Real:
    """Decimals of 60 digits; to be used inside ``context``."""

    name = f"{DIGITS} digits"
    lowest = Decimal("-Infinity")

    def context(self) -> AbstractContextManager[Any]:
        """Return the context in which every operation keeps 60 digits."""
        return decimal.localcontext(_CONTEXT)

    def constant(self, value: Expr) -> Decimal:
        """Return a number."""
        if value.is_Rational:
            return Decimal(int(value.p)) / int(value.q)
        return Decimal(str(value.n(DIGITS + 5)))

    def random(self, bits: int, positive: bool) -> Decimal:
        """Return a decimal in (1/2, 2), with a random sign unless it must be positive."""
        size = Decimal(50_001 + bits % 149_998).scaleb(-5)
        return size if positive or bits & (1 << 40) else -size

    def tidy(self, value: Decimal) -> Decimal:
        """Decimals need no reduction."""
        return value

    def power(self, base: Decimal, exponent: Expr) -> Decimal:
        """Return the real power; refuse a negative base with a fractional exponent, and a base lost in rounding."""
        base = Decimal(base)
        if exponent.is_negative and abs(base) < _LOST:
            raise NotEvaluable(DIVISION)
        if exponent.is_Integer:
            return base ** int(exponent)
        if base < 0 or 0 < base < _LOST:
            raise NotEvaluable("root of a negative number or of one that nearly vanishes")
        if base == 0:
            return base
        if exponent.is_Rational and exponent.q == 2:
            return base.sqrt() ** int(exponent.p)
        return (base.ln() * self.constant(exponent)).exp()

    def real_power(self, base: Decimal, exponent: Decimal) -> Decimal:
        """Return the power of a positive base."""
        if base < _LOST:
            raise NotEvaluable("a real power of a number that is not positive")
        return Decimal(exponent * Decimal(base).ln()).exp()

    def value(self, kind: type[Expr], arguments: Sequence[Any]) -> Decimal:
        """Return the value of a function."""
        if kind in OF_ORDER:
            return OF_ORDER[kind].value([Decimal(a) for a in arguments])
        return self._known(kind).value(arguments)

    def slopes(self, kind: type[Expr], arguments: Sequence[Any], value: Any) -> list[Any]:
        """Return the slope of a function in each argument."""
        return (OF_ORDER[kind] if kind in OF_ORDER else self._known(kind)).slopes(arguments, value)

    def _known(self, kind: type[Expr]) -> Any:
        if kind not in OF_REALS:
            raise NotEvaluable(f"no rule for the function {kind.__name__}")
        return OF_REALS[kind]

    def weight(self, value: Any) -> Any:
        """Return how well a number serves as a pivot; 0 for one that is no divisor."""
        return abs(value) if abs(value) > _LOST else 0

    def inverse(self, value: Any) -> Any:
        """Return one over a number that is a divisor."""
        return 1 / Decimal(value)

    def same(self, left: Decimal, right: Decimal) -> bool:
        """Return whether two decimals agree to 40 digits."""
        return bool(abs(left - right) <= max(Decimal(1), abs(left), abs(right)) * _SAME)


Field = Modular | Ordered | Real
MODULAR, ORDERED, REAL = Modular(), Ordered(), Real()
