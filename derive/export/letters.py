"""Readable letters for indices in printed formulas.

The normal form numbers its bound indices (``_1_0``) and the engine opens sums with fresh ones; neither name is
readable. A scope remembers the letters in use, so a bound index never takes a visible name, while two sums side by side
may both use ``j``. The choice depends only on the expression, never on the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sympy
from sympy import Expr, Indexed

from derive.algebra.index import Index
from derive.algebra.nodes import Binder

POOL = ("j", "k", "l", "i", "p", "q", "a", "b", "c", "d", "e", "o", "t", "u", "v", "w")
SAMPLE_SIZE = "B"
SAMPLE_LETTER = "s"

Hints = Mapping[Expr, str]


@dataclass(frozen=True)
class Scope:
    """The names in use at one place of an expression.

    ``names`` maps live indices to their letters, ``taken`` holds every name that may not be reused, ``hints`` gives the
    preferred letter of an axis length, and ``renamed`` the letter of an index whose own name has another meaning on the
    page. ``ranges`` remembers the axis of each letter, here and in what is printed beside it: within one equation a
    letter runs over one axis.
    """

    names: Mapping[Index, str] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    hints: Hints = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    ranges: dict[str, Expr] = field(default_factory=dict, compare=False)

    def own(self, index: Index) -> str:
        """Return an index's own name, or the letter that replaces it, with its primes."""
        bare = index.name.rstrip("'")
        return self.renamed.get(bare, bare) + index.name[len(bare) :]

    def name(self, index: Index) -> str:
        """Return the letter of an index here; an index without one in any scope keeps its own name."""
        return self.names.get(index, self.own(index))

    def enter(self, bound: Iterable[Index]) -> Scope:
        """Return the scope inside a sum over ``bound``; each bound index gets a letter that is free here."""
        names, taken = dict(self.names), set(self.taken)
        for index in bound:
            names[index] = self._choose(index, taken)
            taken.add(names[index])
        return Scope(names, frozenset(taken), self.hints, self.renamed, self.ranges)

    def _choose(self, index: Index, taken: set[str]) -> str:
        fresh = (letter for letter in self._candidates(index) if letter not in taken)
        chosen = next(letter for letter in fresh if self.ranges.get(letter, index.size) == index.size)
        self.ranges[chosen] = index.size
        return chosen

    def _candidates(self, index: Index) -> Iterable[str]:
        named = index.tag >= 0 and not index.name.startswith("_")  # a canonical index made fresh keeps its number
        own = self.own(index) if named else self.hints.get(index.size, "")
        if own:
            yield own
        elif str(index.size) == SAMPLE_SIZE:
            own = SAMPLE_LETTER
            yield own
        if str(index.size) == SAMPLE_SIZE or len(own) > 1:
            yield from (own + "'" * count for count in range(1, 9))
        reserved = {name for size, name in self.hints.items() if size != index.size}
        yield from (letter for letter in POOL if letter not in reserved)
        yield from POOL
        number = 1
        while True:
            yield f"{own.rstrip(chr(39)) or 'j'}{number}"
            number += 1


def hints_from(*expressions: Expr) -> dict[Expr, str]:
    """Return the letter of each axis length that the named indices of the expressions use, without primes."""
    hints: dict[Expr, str] = {}
    for expression in expressions:
        for index in sorted(expression.atoms(Index), key=Index.sort_key):
            if index.tag == 0:
                hints.setdefault(index.size, index.name.rstrip("'"))
    return hints


def root_scope(
    *expressions: Expr,
    hints: Hints | None = None,
    reserved: frozenset[str] = frozenset(),
    renamed: Mapping[str, str] | None = None,
    ranges: dict[str, Expr] | None = None,
) -> Scope:
    """Return the scope around expressions printed together: their free names and those in ``reserved`` are taken."""
    free = sorted(set().union(*(free_indices(e) for e in expressions)), key=Index.sort_key)
    scope = Scope({}, reserved, hints_from(*expressions) if hints is None else hints, renamed or {})
    named = {index: scope.own(index) for index in free if index.tag == 0}
    taken = reserved.union(named.values(), *(_visible(e) for e in expressions))
    known = {} if ranges is None else ranges
    known.update({name: index.size for index, name in named.items()})
    scope = Scope(named, taken, scope.hints, scope.renamed, known)
    return scope.enter(index for index in free if index.tag != 0)


def free_indices(expression: Expr) -> set[Index]:
    """Return the indices of an expression that no binder inside it binds."""
    if isinstance(expression, Index):
        return {expression}
    if isinstance(expression, Binder):
        return free_indices(expression.body) - set(expression.bound)
    return set().union(*(free_indices(a) for a in expression.args)) if expression.args else set()


def _visible(expression: Expr) -> set[str]:
    """Return the names of every tensor, scalar and axis length in an expression."""
    sizes = {size for index in expression.atoms(Index) for size in index.size.free_symbols}
    scalars = {symbol for symbol in expression.atoms(sympy.Symbol) if not isinstance(symbol, Index)}
    return {symbol.name for symbol in scalars | sizes} | {str(entry.base.label) for entry in expression.atoms(Indexed)}
