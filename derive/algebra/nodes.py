"""The expression nodes of indexed sums, as SymPy objects.

Scalars, ``Add``, ``Mul``, ``Pow`` and elementary functions are SymPy's own. A tensor entry is ``sympy.Indexed``. Where
SymPy is wrong, this module has its own nodes: a sum is ``IndexedSum`` (never ``sympy.Sum``, whose ``doit``, ``diff``
and ``subs`` capture indices), the guards ``Within`` and ``Divides`` carry the range and integrality conditions of
``KroneckerDelta`` elimination, and ``AtMost`` compares two indices. Other reductions are binders too: see
``reductions``.

Not supported: sums with infinite or index-dependent ranges, complex tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any

import sympy
from sympy import Expr, Indexed, IndexedBase

from derive.algebra.index import Index, always_within, bounds, has_division

_OPENED = 10**9


class _Guard(sympy.Function):
    """A function of two integers whose only values are 0 and 1."""

    nargs = 2
    is_real = True
    is_nonnegative = True

    def fdiff(self, argindex: int = 1) -> Expr:
        """A guard is constant: its derivative is zero."""
        return sympy.S.Zero

    def _eval_power(self, exponent: Expr) -> Expr | None:
        return self if exponent.is_positive else None


class Within(_Guard):
    """``Within(e, n)`` is 1 where ``0 <= e < n`` and 0 elsewhere."""

    @classmethod
    def eval(cls, value: Expr, size: Expr) -> Expr | None:
        """Replace the guard by 0 or 1 if either is provable."""
        if value.is_Integer and size.is_Integer:
            return sympy.Integer(int(0 <= int(value) < int(size)))
        if always_within(value, size):
            return sympy.S.One
        return None


class Divides(_Guard):
    """``Divides(d, e)`` is 1 where the integer ``d`` divides the integer ``e`` and 0 elsewhere."""

    @classmethod
    def eval(cls, divisor: Expr, value: Expr) -> Expr | None:
        """Replace the guard by 0 or 1 if either is provable."""
        if divisor.is_Integer and value.is_Integer:
            return sympy.Integer(int(value % divisor == 0))
        low, high = bounds(value)
        if sympy.expand(divisor + low).is_positive and sympy.expand(divisor - high).is_positive:
            return agree(value, sympy.S.Zero)  # no other multiple lies so close to zero
        quotient = sympy.expand(value / divisor)
        if not has_division(quotient) and quotient.is_integer:
            return sympy.S.One
        return cls(divisor, -value) if value.could_extract_minus_sign() else None


def agree(left: Expr, right: Expr) -> Expr:
    """Return the delta of two index expressions, without the terms that they share."""
    terms = sympy.Add.make_args(sympy.expand(left - right))
    above = sympy.Add(*(t for t in terms if not t.could_extract_minus_sign()))
    return sympy.KroneckerDelta(above, sympy.Add(*(-t for t in terms if t.could_extract_minus_sign())))


class AtMost(_Guard):
    """``AtMost(a, b)`` is 1 where the integer ``a`` is at most ``b`` and 0 elsewhere; no term has a minus sign."""

    @classmethod
    def eval(cls, left: Expr, right: Expr) -> Expr | None:
        """Replace the guard by 0 or 1 if either is provable; else move terms with a minus sign to the other side."""
        terms = sympy.Add.make_args(sympy.expand(right - left))
        low, high = bounds(sympy.Add(*terms))
        if low.is_nonnegative or high.is_negative:
            return sympy.Integer(int(bool(low.is_nonnegative)))
        smaller = sympy.Add(*(-t for t in terms if t.could_extract_minus_sign()))
        larger = sympy.Add(*(t for t in terms if not t.could_extract_minus_sign()))
        return None if (smaller, larger) == (left, right) else cls(smaller, larger)


GUARDS = (sympy.KroneckerDelta, Within, Divides, AtMost)
"""Every function of indices whose only values are 0 and 1."""


class Binder(Expr):
    """An expression with indices of its own: ``Binder(body, j, k, ...)`` binds them over their whole ranges."""

    is_commutative = True
    is_real = True

    @property
    def body(self) -> Expr:
        """The expression under the binder."""
        return self.args[0]

    @property
    def bound(self) -> tuple[Index, ...]:
        """The indices that are bound."""
        return tuple(self.args[1:])

    @property
    def free_symbols(self) -> set[Any]:
        """Symbols of the body that the binder does not bind.

        The sizes of the bound indices are not arguments of a binder, so their symbols are not listed: SymPy would not
        find them among the arguments and would take the whole for a constant.
        """
        return set(self.body.free_symbols) - set(self.bound)

    def opened(self) -> tuple[Expr, tuple[Index, ...]]:
        """Return the body and its bound indices under names that the body does not use, the same ones every time.

        Cached results about the body (guards above all) then apply when the sum is opened again. Use this only where
        the body is examined alone: other expressions may use the same names.
        """
        names = unused(self.bound, indices_in(self.body))
        return rename(self.body, names), tuple(names.values())

    def renamed(self) -> tuple[Expr, tuple[Index, ...]]:
        """Return the body and its bound indices with every bound index fresh."""
        fresh = {index: index.fresh() for index in self.bound}
        return rename(self.body, fresh), tuple(fresh.values())

    def _eval_is_real(self) -> bool:
        return True


class IndexedSum(Binder):
    """``IndexedSum(body, j, k, ...)``: the sum of ``body`` over the whole range of each bound index."""

    def __new__(cls, body: Any, *bound: Index) -> Expr:
        """Return the sum; a zero body or no bound index leaves no sum."""
        body = sympy.sympify(body)
        if body == 0 or not bound:
            return body
        obj: Expr = Expr.__new__(cls, body, *bound)
        return obj

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.body.is_nonnegative else None

    def _eval_is_positive(self) -> bool | None:
        # Every range holds at least one value.
        return True if self.body.is_positive else None


class PartialDerivative(Expr):
    """``PartialDerivative(e, W[a, b])``: the derivative of ``e`` with respect to an entry, not yet carried out."""

    is_commutative = True
    is_real = True

    @property
    def expression(self) -> Expr:
        """The expression to differentiate."""
        return self.args[0]

    @property
    def variable(self) -> Expr:
        """The tensor entry (or scalar symbol) of the differentiation."""
        return self.args[1]


class AtZero(Expr):
    """``AtZero(e, eta)``: the derivative of ``e`` with respect to ``eta`` at ``eta = 0``, not yet carried out."""

    is_commutative = True
    is_real = True


class IndexTensor(IndexedBase):
    """A tensor of integers in ``range(values)``, for use inside an index (token numbers of an embedding)."""

    def __new__(cls, name: str, values: Expr) -> IndexTensor:
        """Return the tensor whose entries run over ``range(values)``."""
        obj: IndexTensor = IndexedBase.__new__(cls, name, integer=True, nonnegative=True)
        obj.values = values
        return obj

    def _hashable_content(self) -> tuple[Any, ...]:
        # The range is part of the identity: SymPy's caches must not mix two tensors of one name.
        return (*super()._hashable_content(), self.values)


def unused(bound: Sequence[Index], taken: Set[Index]) -> dict[Index, Index]:
    """Return free names for bound indices, the first of a fixed sequence, so that equal sums get equal names."""
    names: dict[Index, Index] = {}
    for index in bound:
        row = (Index(index.name, index.size, _OPENED + k) for k in itertools.count())
        names[index] = next(name for name in row if name not in taken and name not in names.values())
    return names


@lru_cache(maxsize=10_000)
def tensor(name: str, *, values: Expr | None = None) -> IndexedBase:
    """Return the named tensor of real entries, or of integers in ``range(values)``."""
    return IndexedBase(name, real=True) if values is None else IndexTensor(name, values)


@lru_cache(maxsize=100_000)
def entry(base: IndexedBase, *indices: Expr) -> Indexed:
    """Return ``base[indices]``, the same object as before if made earlier: SymPy deduces assumptions per object."""
    return base[indices]


@lru_cache(maxsize=200_000)
def indices_in(expression: Expr) -> frozenset[Index]:
    """Return every index that occurs in an expression, free or bound."""
    if isinstance(expression, Index):
        return frozenset((expression,))
    return frozenset().union(*(indices_in(a) for a in expression.args if isinstance(a, sympy.Basic)))


def rename(expression: Expr, mapping: Mapping[Any, Any]) -> Expr:
    """Replace free indices, symbols, tensors or entries, capturing nothing.

    If a replacement mentions the bound indices of a sum, these are made fresh first.
    """
    if not mapping:
        return expression
    only_indices = frozenset(mapping) if all(isinstance(key, Index) for key in mapping) else None
    return _rename(expression, mapping, only_indices)


def _rename(expression: Expr, mapping: Mapping[Any, Any], keys: frozenset[Index] | None) -> Expr:
    if keys is not None and keys.isdisjoint(indices_in(expression)):
        return expression
    if expression in mapping:
        return mapping[expression]
    if isinstance(expression, Binder):
        return _rename_under(expression, mapping)
    if not expression.args:
        return expression
    arguments = [_rename(a, mapping, keys) if isinstance(a, sympy.Basic) else a for a in expression.args]
    if all(new is old for new, old in zip(arguments, expression.args, strict=True)):
        return expression
    return rebuilt(expression, arguments)


def rebuilt(expression: Expr, arguments: Sequence[Expr]) -> Expr:
    """Return the expression with other arguments; results that SymPy is slow to build are cached."""
    if isinstance(expression, Indexed):
        return entry(*arguments)
    if isinstance(expression, sympy.Max | sympy.Min):
        return _extreme(expression.func, *arguments)
    return expression.func(*arguments)


@lru_cache(maxsize=10_000)
def _extreme(kind: Callable[..., Expr], *arguments: Expr) -> Expr:
    """Return the largest or smallest argument, cached: SymPy compares every two of them each time."""
    return kind(*arguments)


def _rename_under(expression: Binder, mapping: Mapping[Any, Any]) -> Expr:
    live = {old: new for old, new in mapping.items() if not indices_in(old) & set(expression.bound)}
    incoming = frozenset().union(*(indices_in(new) for new in live.values())) if live else frozenset()
    body, bound = expression.body, expression.bound
    if incoming & set(bound):
        body, bound = expression.renamed()
    return expression.func(rename(body, live), *bound)


def map_entries(expression: Expr, change: Callable[[Indexed], Expr]) -> Expr:
    """Replace every tensor entry, also inside sums; ``change`` must introduce no index of its own."""
    if isinstance(expression, Indexed):
        return change(expression)
    if not expression.args or isinstance(expression, (IndexedBase, *GUARDS)):
        return expression
    return expression.func(*(map_entries(a, change) if isinstance(a, Expr) else a for a in expression.args))
