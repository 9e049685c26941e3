"""Indices: integer variables that know the axis they run over.

An index is an object with a size, so that a range guard can be dropped by proof and a bound index can never be
mistaken for a free one. Three kinds share the class: *named* (tag 0, written by people), *fresh* (tag > 0, made by the
engine when it opens a sum) and *canonical* (tag < 0, the normal form's numbering). An index of size n takes the values
0 .. n-1.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import sympy
from sympy.core.symbol import Symbol

_counter = itertools.count(1)


class Index(Symbol):
    """An integer variable over ``range(size)``; equal only to an index of the same name, size and tag."""

    __slots__ = ("size", "tag")

    def __new__(cls, name: str, size: Any, tag: int = 0) -> Index:
        """Return the index ``name`` that runs over ``range(size)``."""
        return _made(name, sympy.sympify(size), tag)

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Rebuild from name, size and tag when copied."""
        return ((self.name, self.size, self.tag), {})

    def _hashable_content(self) -> tuple[Any, ...]:
        return (self.name, self.size, self.tag)

    def sort_key(self, order: Any = None) -> Any:
        """Order by name, then tag, then size: independent of hashing and of the session."""
        return self.class_key(), (3, (self.name, self.tag, size_name(self.size))), sympy.S.One.sort_key(), sympy.S.One

    def fresh(self) -> Index:
        """Return an index over the same axis that occurs nowhere else."""
        return Index(self.name, self.size, next(_counter))

    def primed(self) -> Index:
        """Return the named index with a prime: the second sample or unit of a kernel."""
        return Index(self.name + "'", self.size)


@lru_cache(maxsize=100_000)
def _made(name: str, size: Any, tag: int) -> Index:
    """Make an index or return the same one made earlier, for which SymPy has deduced the assumptions already."""
    obj: Index = Symbol.__xnew__(Index, name, integer=True, nonnegative=True)
    obj.size, obj.tag = size, tag
    return obj


@lru_cache(maxsize=10_000)
def size_symbol(name: str) -> Symbol:
    """Return the symbol of an axis length: a positive integer."""
    return Symbol(name, integer=True, positive=True)


@lru_cache(maxsize=10_000)
def size_name(size: sympy.Expr) -> str:
    """Return the text of an axis length, used to order indices."""
    return str(size)


class Remainder(sympy.Function):
    """``Remainder(a, d)``: ``a - d floor(a/d)``, which lies in ``range(d)`` for any sign of ``a``."""

    nargs = 2
    is_integer = True
    is_nonnegative = True

    @classmethod
    def eval(cls, value: sympy.Expr, divisor: sympy.Expr) -> sympy.Expr | None:
        """Drop multiples of the divisor, and the remainder itself if the value provably lies in the divisor's range."""
        multiples, rest = _multiples(value, divisor)
        if rest.is_Integer and divisor.is_Integer:
            return sympy.Integer(int(rest) % int(divisor))
        if divisor == 1 or always_within(rest, divisor):
            return sympy.S.Zero if divisor == 1 else rest
        return None if multiples == 0 and rest == value else cls(rest, divisor)


class Quotient(sympy.Function):
    """``Quotient(a, d)``: ``floor(a/d)``."""

    nargs = 2
    is_integer = True

    @classmethod
    def eval(cls, value: sympy.Expr, divisor: sympy.Expr) -> sympy.Expr | None:
        """Take multiples of the divisor out, and drop the rest if it provably lies in the divisor's range."""
        multiples, rest = _multiples(value, divisor)
        if rest.is_Integer and divisor.is_Integer:
            return multiples + int(rest) // int(divisor)
        if divisor == 1 or always_within(rest, divisor):
            return multiples
        return None if multiples == 0 and rest == value else multiples + cls(rest, divisor)

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None


def _multiples(value: sympy.Expr, divisor: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Return ``q`` and ``rest`` with ``value = q*divisor + rest``; ``q`` comes from the terms that it divides."""
    multiples: list[sympy.Expr] = []
    rest: list[sympy.Expr] = []
    for term in sympy.Add.make_args(sympy.expand(value)):
        factor = sympy.expand(term / divisor)
        whole = not has_division(factor) and factor.is_integer
        (multiples if whole else rest).append(factor if whole else term)
    return sympy.Add(*multiples), sympy.Add(*rest)


def bounds(expression: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Return the least and greatest value of an index expression that is affine in its indices.

    Both ends are unknown (``nan``) if the sign of an index's coefficient is unknown.
    """
    remainders = sorted(expression.atoms(Remainder), key=str)
    expression = expression.xreplace({r: Index("_r", r.args[1], 10**9 + k) for k, r in enumerate(remainders)})
    low = high = rest = sympy.expand(expression)
    for index in sorted(expression.atoms(Index), key=Index.sort_key):
        coefficient = rest.coeff(index, 1)
        rest = sympy.expand(rest - coefficient * index)
        if coefficient.has(Index) or index in rest.free_symbols:
            return sympy.nan, sympy.nan
        end = (index.size - 1) * coefficient
        if coefficient.is_nonnegative:
            low, high = low - coefficient * index, high - coefficient * index + end
        elif coefficient.is_nonpositive:
            low, high = low - coefficient * index + end, high - coefficient * index
        else:
            return sympy.nan, sympy.nan
    return sympy.expand(low), sympy.expand(high)


def has_division(expression: sympy.Expr) -> bool:
    """Return whether the expression divides by a symbol; then neither sign nor integrality is known."""
    return any(power.exp.is_negative for power in expression.atoms(sympy.Pow))


@lru_cache(maxsize=50_000)
def always_within(expression: sympy.Expr, size: sympy.Expr) -> bool:
    """Return whether ``0 <= expression < size`` is proved for every value of its indices."""
    if isinstance(expression, Index):
        return bool(sympy.expand(size - expression.size).is_nonnegative)
    if isinstance(expression, sympy.Indexed):
        values = getattr(expression.base, "values", None)
        return values is not None and bool(sympy.expand(size - values).is_nonnegative)
    if isinstance(expression, Quotient):
        return always_within(expression.args[0], sympy.expand(size * expression.args[1]))
    if has_division(expression) or not expression.is_integer:
        return False
    low, high = bounds(expression)
    return bool(low.is_nonnegative and sympy.expand(size - 1 - high).is_nonnegative)
