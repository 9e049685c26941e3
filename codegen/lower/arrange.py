"""Lay out a pointwise expression: wide values with narrow coefficients, each computed once at its own width.

Two examples, with v, u, y wide and f, p, q narrow:

    f*v - f*p*u/k - f**2*q*u/k      becomes      c = f*(p + f*q)/k,   f*v - c*u
    f*y + f*b                       becomes      f*(y + b)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy
from sympy import Add, Expr, Indexed, Mul

from codegen.ir.program import entries
from derive.algebra.equality import factored
from derive.algebra.index import Index
from derive.forward_map import BATCH


def support(expression: Expr) -> tuple[Index, ...]:
    """Return the indices of the entries of an expression: the batch first, then in the entries' order."""
    found: dict[Index, int] = {}
    for entry in entries(expression):
        for position, index in enumerate(entry.indices):
            found[index] = min(position, found.get(index, position))
    return tuple(sorted(found, key=lambda i: (i != BATCH, found[i], i.sort_key())))


def arranged(expression: Expr, indices: Sequence[Index], narrow: Callable[[Expr], Expr]) -> Expr:
    """Return an equal expression whose narrow coefficients are replaced by ``narrow`` of them, which names them.

    An entry is wide if it varies along the last axis. An expression without wide entries, or not polynomial in them, is
    returned unchanged.
    """
    wide = [e for e in entries(expression) if indices[-1] in e.indices]
    if len(indices) < 2 or not wide or not expression.is_polynomial(*wide):
        return expression
    polynomial = sympy.Poly(sympy.expand(expression), *wide)
    terms = []
    for powers, coefficient in polynomial.terms():
        monomial = Mul(*(w**p for w, p in zip(wide, powers, strict=True)))
        terms.append(_named(factored(coefficient), narrow) * monomial)
    return _common_factor(terms)


def _named(coefficient: Expr, narrow: Callable[[Expr], Expr]) -> Expr:
    """Name a coefficient unless it is a number, an entry, or a number times an entry."""
    negative = coefficient.could_extract_minus_sign()
    positive = -coefficient if negative else coefficient
    simple = isinstance(positive.as_coeff_Mul()[1], Indexed) or not positive.has(Indexed)
    named = positive if simple else narrow(positive)
    return -named if negative else named


def _common_factor(terms: Sequence[Expr]) -> Expr:
    """Return the sum of terms with their common narrow factors pulled out, unexpanded."""
    shared = set(Mul.make_args(terms[0]))
    for term in terms[1:]:
        shared &= set(Mul.make_args(term))
    factors = sorted((f for f in shared if isinstance(f, Indexed)), key=str)
    if len(terms) == 1 or not factors:
        return Add(*terms)
    common = Mul(*factors)
    return Mul(common, Add(*(term / common for term in terms)), evaluate=False)
