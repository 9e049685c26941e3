"""Delta elimination with the guards that keep it correct.

``sum over j of delta(a, b) F(j)`` with ``a - b = c j + rest`` is ``F(-rest/c)`` where ``c`` divides ``rest`` and the
value lies in the range of ``j``, and zero elsewhere. SymPy drops both conditions; here each is either proved or kept
as a guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, KroneckerDelta

from derive.algebra.index import Index, size_name
from derive.algebra.nodes import GUARDS, Divides, Within, rename


def is_guard(expression: Expr) -> bool:
    """Return whether the expression only takes the values 0 and 1."""
    return isinstance(expression, GUARDS)


@lru_cache(maxsize=100_000)
def free_indices(expression: Expr) -> frozenset[Index]:
    """Return the indices that occur free."""
    return frozenset(s for s in expression.free_symbols if isinstance(s, Index))


@dataclass(frozen=True)
class _Way:
    """One way to remove a bound index: the delta used, the index, its value and the guards that the value needs."""

    delta: Expr
    index: Index
    value: Expr
    guards: list[Expr]

    @property
    def cost(self) -> int:
        return len(self.guards) + (0 if self.value.is_Atom else 1)


def eliminate(factors: Sequence[Expr], bound: tuple[Index, ...]) -> tuple[list[Expr], tuple[Index, ...]] | None:
    """Use one delta to remove one bound index; None when no delta can.

    Prefers a value that needs no guard, then a coefficient of one, so that guards appear only where they must.
    """
    way = _cheapest(_ways(factors, bound), factors, bound)
    if way is None:
        return None
    rest = [f for f in factors if f is not way.delta]
    left = [rename(f, {way.index: way.value}) for f in rest]
    return [*way.guards, *left], tuple(i for i in bound if i != way.index)


def _ways(factors: Sequence[Expr], bound: tuple[Index, ...]) -> list[_Way]:
    found = []
    for delta in factors:
        if isinstance(delta, KroneckerDelta):
            solved = ((index, solve_for(delta, index)) for index in bound)
            found += [_Way(delta, index, *solution) for index, solution in solved if solution is not None]
    return found


def _cheapest(ways: list[_Way], factors: Sequence[Expr], bound: tuple[Index, ...]) -> _Way | None:
    """Choose by cost, then the index that occurs in most factors, then by a key free of names and order."""
    least = min((way.cost for way in ways), default=0)
    best = [way for way in ways if way.cost == least]
    if len(best) > 1 and least > 0:
        best.sort(key=lambda way: _rank(way, factors, bound), reverse=True)
    return best[0] if best else None


def _rank(way: _Way, factors: Sequence[Expr], bound: tuple[Index, ...]) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    used = sum(way.index in free_indices(f) for f in factors)
    return used, signature(way.index, [way.delta], bound), signature(way.index, factors, bound)


def signature(index: Index, factors: Sequence[Expr], bound: Sequence[Index]) -> tuple[str, ...]:
    """Return the key that distinguishes a bound index whatever its name: its size and its factors."""
    marked = {other: Index("_", other.size, -1000) for other in bound}
    marked[index] = Index("_star", index.size, -1000)
    return (size_name(index.size), *sorted(str(rename(f, marked)) for f in factors if index in free_indices(f)))


@lru_cache(maxsize=20_000)
def solve_for(delta: KroneckerDelta, index: Index) -> tuple[Expr, list[Expr]] | None:
    """Solve a delta for an index that occurs linearly in it; return the value and the guards that it needs.

    The coefficient must be known to be non-zero and free of indices (a number, a stride, a dilation).
    """
    difference = sympy.expand(delta.args[0] - delta.args[1])
    if any(power.exp.is_negative for power in difference.atoms(sympy.Pow)) or not difference.is_integer:
        # An earlier elimination may have divided a value (under its guard): multiply it out.
        difference = sympy.expand(sympy.numer(sympy.together(difference)))
    if index not in difference.free_symbols:
        return None
    coefficient = difference.coeff(index, 1)
    if coefficient.could_extract_minus_sign():
        coefficient, difference = -coefficient, sympy.expand(-difference)
    rest = sympy.expand(difference - coefficient * index)
    if index in rest.free_symbols or coefficient.has(Index) or not coefficient.is_nonzero:
        return None
    value = sympy.expand(-rest / coefficient)
    guards = [] if coefficient in (1, -1) else [Divides(coefficient, rest)]
    guards.append(Within(value, index.size))
    return value, [g for g in guards if g != 1]


def substitute_free_deltas(factors: Sequence[Expr]) -> list[Expr] | None:
    """Under ``delta(i, i')`` replace ``i'`` by ``i`` in the other factors; None when nothing changes.

    Of two plain indices the later in order is replaced, and an index made by the engine before a named one; a plain
    index equal to a longer expression is replaced by it.
    """
    for factor in _in_order([f for f in factors if isinstance(f, KroneckerDelta)]):
        old, new = _orient(*factor.args)
        if old is None:
            continue
        rest = [f for f in factors if f is not factor]
        changed = [rename(f, {old: new}) for f in rest]
        if any(a != b for a, b in zip(changed, rest, strict=True)):
            return [factor, *changed]
    return None


def _in_order(deltas: list[Expr]) -> list[Expr]:
    """Put deltas of two plain indices first, then order by a key that is free of the names of bound indices."""
    return deltas if len(deltas) < 2 else sorted(deltas, key=_place)


@lru_cache(maxsize=100_000)
def _place(delta: Expr) -> tuple[bool, str]:
    """Return the key by which deltas are ordered: whether an index is not plain, and the text without bound names."""
    blank = {i: Index("_", i.size, -1000) for i in free_indices(delta) if i.tag != 0}
    return not all(isinstance(a, Index) for a in delta.args), str(rename(delta, blank))


def _orient(left: Expr, right: Expr) -> tuple[Index | None, Expr]:
    plain = [side for side in (left, right) if isinstance(side, Index)]
    if len(plain) == 2:
        first, second = sorted(plain, key=lambda index: (index.tag != 0, size_name(index.size), index.sort_key()))
        return second, first
    if len(plain) == 1:
        other = right if plain[0] is left else left
        return (None, other) if plain[0] in other.free_symbols else (plain[0], other)
    return None, left
