"""Write indices and integer quotients that are used as numbers as sums of masks, since programs have only masks.

i           sum[l](l < i)               counts the places before i
i // d      sum[l]((l + 1)*d <= i)      counts the multiples of d up to i
i % d       i - d*(i // d)
"""

from __future__ import annotations

import itertools

import sympy
from sympy import Expr, Indexed

from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index, Quotient, Remainder, bounds
from derive.algebra.nodes import AtMost, Binder, IndexedSum
from derive.errors import UsageError


def counted(expression: Expr) -> Expr:
    """Return the expression with sums of masks in place of indices that are used as numbers.

    Raises ``UsageError`` for a quotient whose numerator may be negative.
    """
    if isinstance(expression, Index):
        return _multiples(expression, sympy.S.One)
    if isinstance(expression, Quotient | Remainder):
        value, divisor = expression.args
        quotient = _multiples(value, divisor)
        return quotient if isinstance(expression, Quotient) else counted(value) - divisor * quotient
    if isinstance(expression, Indexed) or is_guard(expression) or not expression.args:
        return expression
    if isinstance(expression, Binder):
        return expression.func(counted(expression.body), *expression.bound)
    return expression.func(*(counted(a) if isinstance(a, Expr) else a for a in expression.args))


def _multiples(value: Expr, divisor: Expr) -> Expr:
    """Return the number of positive multiples of a divisor that are at most ``value``."""
    low, high = bounds(value)
    if not (low.is_nonnegative and high.is_finite):
        raise UsageError(
            f"no code for the integer quotient of {value} by {divisor} as a number: it may be negative; add a multiple "
            "of the divisor, or pass the numbers as an input"
        )
    names = (Index("count", high + 1, 10**8 + k) for k in itertools.count())
    place = next(name for name in names if name not in value.free_symbols)
    return IndexedSum(AtMost(divisor * (place + 1), value), place)
