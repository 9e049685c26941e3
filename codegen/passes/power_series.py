"""Truncated power series: lists of exact coefficients, the constant first."""

from __future__ import annotations

import sympy
from sympy import Expr, Symbol

from codegen.passes.value_at_zero import without_kinks

Series = list[Expr]


def expanded(function: Expr, r: Symbol, order: int) -> Series | None:
    """Return the first ``order`` coefficients of a function's power series in ``r``; None if none is known."""
    try:
        expansion = sympy.series(without_kinks(function, r), r, 0, order).removeO()
    except (NotImplementedError, ValueError, TypeError):
        return None
    if not expansion.is_polynomial(r):
        return None
    series = [expansion.coeff(r, k) for k in range(order)]
    return series if _agrees(function, r, series) else None


def _agrees(function: Expr, r: Symbol, series: Series) -> bool:
    """Check the expansion against the function at a small ``r``, with numbers for other symbols."""
    at = {s: sympy.Rational(3, 2) for s in function.free_symbols if s != r} | {r: sympy.Rational(1, 1000)}
    total = sum(c * r**k for k, c in enumerate(series))
    error = sympy.N((function - total).subs(at), 40)
    return bool(abs(error) < sympy.Rational(1, 10**15))


def times(left: Series, right: Series) -> Series:
    """Return the product, truncated to the shorter series."""
    count = min(len(left), len(right))
    return [sympy.expand(sum(left[k] * right[n - k] for k in range(n + 1))) for n in range(count)]


def slope(series: Series) -> Series:
    """Return the derivative, which has one term fewer."""
    return [k * c for k, c in enumerate(series)][1:]


def waves(tau: Series, power: int) -> tuple[Series, Series]:
    """Return ``sin(r tau)/r`` and ``cos(r tau)``, where all series are in ``r**power``."""
    count, shift = len(tau), 2 // power
    square = ([sympy.S.Zero] * shift + times(tau, tau))[:count]  # (r tau)**2
    sine, cosine, term = [sympy.S.Zero] * count, [sympy.S.Zero] * count, [sympy.S.One] + [sympy.S.Zero] * (count - 1)
    for k in range(count):
        cosine = [c + p / sympy.factorial(2 * k) for c, p in zip(cosine, term, strict=True)]
        sine = [c + p / sympy.factorial(2 * k + 1) for c, p in zip(sine, times(term, tau), strict=True)]
        term = [-p for p in times(term, square)]
    return sine, cosine


def root(terms: int) -> Series:
    """Return ``sqrt(1 + r**2)`` as a series in ``r**2``."""
    return [sympy.binomial(sympy.Rational(1, 2), k) for k in range(terms)]


def simplified(series: Series) -> tuple[Expr, ...]:
    """Return the coefficients simplified."""
    return tuple(sympy.simplify(c) for c in series)
