"""Properties of an expression: free indices, guards, the number type that it needs, and the cost of evaluating it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import sympy
from sympy import Basic, Expr, Indexed, IndexedBase, Pow, Symbol
from sympy.core.function import Application

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.nodes import GUARDS, AtZero, Binder, PartialDerivative
from derive.algebra.reductions import Attains, Largest, LogSumExp, Masked, Stopped
from derive.evaluation.fields import MODULAR, ORDERED, REAL, Field
from derive.evaluation.functions import OF_ORDER

if TYPE_CHECKING:
    from derive.forward_map import Definition

_WITHOUT_ROUNDING = (Largest, Attains, Masked, Stopped, Quotient, Remainder)
Scope = Mapping[IndexedBase, "Definition"]
_LARGE = 10**9


def is_guard(expression: Expr) -> bool:
    """Return whether the expression is of a kind whose only values are 0 and 1."""
    return isinstance(expression, GUARDS)


@lru_cache(maxsize=50_000)
def free_indices(expression: Basic) -> frozenset[Index]:
    """Return the indices that occur outside the binders that bind them."""
    if isinstance(expression, Index):
        return frozenset((expression,))
    inside = frozenset().union(*(free_indices(a) for a in expression.args if isinstance(a, Basic)))
    return inside - frozenset(expression.bound) if isinstance(expression, Binder) else inside


def reached(expressions: Iterable[Expr], scope: Scope) -> set[Expr]:
    """Return the expressions and the definitions of all intermediates that they mention, directly or indirectly."""
    found, waiting = set(), set(expressions)
    while waiting:
        found |= waiting
        bases = set().union(*map(_bases, waiting))
        waiting = {scope[base].expression for base in bases if base in scope} - found
    return found


@lru_cache(maxsize=20_000)
def _bases(expression: Expr) -> frozenset[IndexedBase]:
    return frozenset(expression.atoms(IndexedBase))


def field_for(expressions: Iterable[Expr], scope: Scope) -> Field:
    """Return the number type that some expressions and the intermediates in them need."""
    needed = set(map(_field, reached(expressions, scope)))
    return next((numbers for numbers in (REAL, ORDERED) if numbers in needed), MODULAR)


@lru_cache(maxsize=20_000)
def _field(expression: Expr) -> Field:
    """Return the number type that an expression by itself needs."""
    if expression.has(sympy.NumberSymbol, LogSumExp) or any(not p.exp.is_Integer for p in expression.atoms(Pow)):
        return REAL
    functions = [f for f in expression.atoms(Application, sympy.Max, sympy.Min, Largest) if not is_guard(f)]
    if any(type(function) not in (*OF_ORDER, *_WITHOUT_ROUNDING) for function in functions):
        return REAL
    return ORDERED if functions else MODULAR


class Meter:
    """Estimates how many nodes are visited when some expressions are evaluated once, intermediates included."""

    def __init__(self, expressions: Iterable[Expr], scope: Scope) -> None:
        given = list(expressions)
        indices = {d.expression: d.indices for d in scope.values()}
        self._parts = [(e, indices.get(e, ())) for e in reached(given, scope) - set(given)]
        self._parts += [(e, ()) for e in given]

    def __call__(self, sizes: Mapping[Symbol, int]) -> int:
        """Return the cost at the given sizes."""
        return sum(_visits(e, sizes) * math.prod(_length(i.size, sizes) for i in own) for e, own in self._parts)


def _visits(expression: Expr, sizes: Mapping[Symbol, int]) -> int:
    if not expression.args or isinstance(expression, (Indexed, *GUARDS)):
        return 1
    if isinstance(expression, Binder):
        terms = math.prod(_length(i.size, sizes) for i in expression.bound)
        return min(_LARGE, terms * _visits(expression.body, sizes))
    if isinstance(expression, PartialDerivative | AtZero):
        return 2 * _visits(expression.args[0], sizes)
    return 1 + sum(_visits(a, sizes) for a in expression.args if isinstance(a, Expr))


def _length(size: Expr, sizes: Mapping[Symbol, int]) -> int:
    if size in sizes:
        return sizes[size]
    value = size.xreplace({s: sympy.Integer(v) for s, v in sizes.items()})
    return int(value) if value.is_Integer else 1
