"""Predict the size of a formula when it is multiplied out, without doing so.

A derivation multiplies out powers and products of sums: ``(sum[j](W[i, j]*x[j]) + b[i])**16`` has 17 terms, with up to
16 nested sums, and comparing two such expressions takes hours. Such a formula is refused first.

                       a + b                 a b            a**n
    terms              the sum of both       the product    choose n of those of a, with repetition
    sums in a term     the larger of both    the sum        n times those of a

Quotients, roots and functions are not multiplied out; their arguments are measured separately. Not covered:
products of one term each, such as ``sum[j](W[i, j]*x[j])**16``, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

from sympy import Add, Expr, Indexed, Mul, Pow

from derive.algebra.nodes import IndexedSum

MOST_TERMS = 64
MOST_SUMS = 6  # nested, in a formula of more than one term
_HUGE = 10**9


@dataclass(frozen=True)
class Size:
    """The number of terms when multiplied out, the most nested sums in a term, and whether any part is too large."""

    terms: int = 1
    sums: int = 0
    too_large: bool = False


def size_of(expression: Expr, defined: Mapping[str, Size]) -> Size:
    """Return the size of an expression; ``defined`` holds the sizes of intermediates."""
    if isinstance(expression, Indexed):
        return defined.get(str(expression.base.label), Size())
    parts = [size_of(part, defined) for part in expression.args]
    worst = any(part.too_large for part in parts)
    if isinstance(expression, Add):
        return Size(min(sum(part.terms for part in parts), _HUGE), max(part.sums for part in parts), worst)
    if isinstance(expression, IndexedSum):
        return Size(parts[0].terms, parts[0].sums + 1, worst)
    if isinstance(expression, Mul):
        return _product(parts, worst)
    if isinstance(expression, Pow) and expression.exp.is_Integer and expression.exp > 0:
        base, exponent = parts[0], int(expression.exp)
        grown = Size(min(comb(base.terms + exponent - 1, exponent), _HUGE), base.sums * exponent, worst)
        return grown if base.terms == 1 else _judged(grown)
    return Size(1, 0, worst)  # a quotient, a root or a function stays one factor


def _product(parts: list[Size], worst: bool) -> Size:
    terms, several = 1, 0
    for part in parts:
        terms = min(terms * part.terms, _HUGE)
        several += part.terms > 1
    found = Size(terms, sum(part.sums for part in parts), worst)
    return _judged(found) if several > 1 else found


def _judged(size: Size) -> Size:
    return Size(size.terms, size.sums, size.too_large or size.terms > MOST_TERMS or size.sums > MOST_SUMS)
