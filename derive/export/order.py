"""The order of terms and factors in printed maths; it has no other meaning.

Factors: numbers, scalars, entries, functions, brackets, deltas and guards, and an explicit sum last (it needs no
brackets there). Terms: those without a scalar factor first, then by increasing degree in scalars, plain numbers last; a
term with a minus sign is not first, and sums precede single entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Indexed, Mul, Pow, Rational, S, Symbol

from derive.algebra.index import Index
from derive.algebra.nodes import GUARDS, IndexedSum

Printer = Callable[[Expr], str]


@dataclass(frozen=True)
class Fraction:
    """A product as ``sign * numerator / denominator``; every exponent in the two lists is positive."""

    negative: bool
    numerator: tuple[Expr, ...]
    denominator: tuple[Expr, ...]


def factors(expression: Expr) -> tuple[Expr, ...]:
    """Return the factors of a product without evaluating anything."""
    return tuple(Mul.make_args(expression))


def split_fraction(expression: Expr, printed: Printer) -> Fraction:
    """Return a product's sign, the ordered factors of the numerator and those of the denominator."""
    above: list[Expr] = []
    below: list[Expr] = []
    number = S.One
    for factor in factors(expression):
        if factor.is_Rational:
            number *= factor
        elif _sinks(factor):
            below.append(Pow(factor.base, -factor.exp))
        else:
            above.append(factor)
    if isinstance(number, Rational):
        above += [] if abs(number.p) == 1 else [sympy.Integer(abs(number.p))]
        below += [] if number.q == 1 else [sympy.Integer(number.q)]
    return Fraction(bool(number < 0), _sorted_factors(above, printed), _sorted_factors(below, printed))


def _sinks(factor: Expr) -> bool:
    return bool(factor.is_Pow and factor.exp.is_Rational and factor.exp < 0)


def _sorted_factors(items: list[Expr], printed: Printer) -> tuple[Expr, ...]:
    return tuple(sorted(items, key=lambda factor: (_rank(factor), _alphabetical(printed(factor)))))


def _alphabetical(printed: str) -> str:
    """Return a sort key that puts a primed name after the plain one."""
    return printed.replace("'", "~")


def _rank(factor: Expr) -> int:
    base = factor.base if factor.is_Pow else factor
    if base.is_number:
        return 0
    if isinstance(base, Symbol) and not isinstance(base, Index):
        return 1
    if isinstance(base, IndexedSum):
        return 7 if factor is base else 4
    for rank, kind in ((2, Indexed), (5, Add), (6, GUARDS)):
        if isinstance(base, kind):
            return rank
    return 3


def ordered_terms(expression: Expr, printed: Printer) -> tuple[Expr, ...]:
    """Return the terms of a sum in reading order."""
    return tuple(sorted(Add.make_args(expression), key=lambda term: (*_weight(term), _alphabetical(printed(term)))))


def _weight(term: Expr) -> tuple[bool, int, bool, bool]:
    negative = bool(term.as_coeff_Mul()[0] < 0)
    return bool(term.is_number), _degree(term), negative, not term.has(IndexedSum)


def _degree(term: Expr) -> int:
    degree = 0
    for factor in factors(term):
        base, exponent = factor.as_base_exp()
        if isinstance(base, Symbol) and not isinstance(base, Index) and exponent.is_Integer:
            degree += max(int(exponent), 0)
    return degree
