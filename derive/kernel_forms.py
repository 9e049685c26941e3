"""The shape of an update kernel and of a forward map: unit deltas, the general law, the degree in the parameters."""

from __future__ import annotations

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow

from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum


def strip_unit_deltas(expression: Expr, pairs: list[tuple[Index, Index]]) -> Expr | None:
    """Return ``c`` where ``expression = c * product of delta(unit, unit')``, or None when it has no such shape."""
    deltas = {KroneckerDelta(a, b) for a, b in pairs}
    primed = {b for _, b in pairs}
    terms = []
    for monomial in Add.make_args(sympy.expand(expression, deep=False)):
        factors = Mul.make_args(monomial)
        rest = Mul(*(f for f in factors if f not in deltas))
        if not deltas <= set(factors) or rest.free_symbols & primed:
            return None
        terms.append(rest)
    return Add(*terms)


def general_law(output: Expr, bases: set[IndexedBase]) -> Expr | None:
    """Return the forward map's operator applied to squares, every weight one; None unless each term has one weight."""
    law = sympy.S.Zero
    for term in Add.make_args(output):
        factors = Mul.make_args(term)
        sums = [f for f in factors if isinstance(f, IndexedSum)]
        outside = Mul(*(f for f in factors if not isinstance(f, IndexedSum)))
        if len(sums) > 1:
            return None
        body, bound = (outside * sums[0].body, sums[0].bound) if sums else (outside, ())
        weights = [f for f in Mul.make_args(body) if isinstance(f, Indexed) and f.base in bases]
        if len(weights) != 1 or (body / weights[0]).atoms(IndexedBase) & bases:
            return None
        law += IndexedSum((body / weights[0]) ** 2, *bound)
    return law


def degree(expression: Expr, bases: set[IndexedBase]) -> int | None:
    """Return the degree of a normal form as a polynomial in the given tensors; None when it is no polynomial."""
    if isinstance(expression, Indexed):
        return int(expression.base in bases)
    if not expression.atoms(IndexedBase) & bases:
        return 0
    if isinstance(expression, Add | IndexedSum):
        parts = [degree(a, bases) for a in (expression.args if expression.is_Add else [expression.body])]
        return None if None in parts else max(p for p in parts if p is not None)
    if isinstance(expression, Mul):
        parts = [degree(a, bases) for a in expression.args]
        return None if None in parts else sum(p for p in parts if p is not None)
    if isinstance(expression, Pow) and expression.exp.is_Integer and expression.exp > 0:
        base = degree(expression.base, bases)
        return None if base is None else base * int(expression.exp)
    return None
