"""Coverage of an expression: evaluations must hit both sides of every condition before their agreement counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sympy import Expr

from derive.algebra.index import Index
from derive.algebra.nodes import GUARDS, AtMost, Divides, IndexedSum, Within
from derive.evaluation.points import Witness
from derive.evaluation.positions import CONDITIONS, Environment, position
from derive.evaluation.reading import free_indices

if TYPE_CHECKING:
    from derive.evaluation.points import Point


def edges(expression: Expr) -> set[Witness]:
    """Return the edges of an expression.

    For a range guard: both sides of both ends. For a comparison: both sides of its end. For any other guard: that it
    held and that it failed. Each counts only if all guards beside it held, so that it alone decided. For a sum: nonzero
    terms with the last value of every index, and one in which any two indices differ that are both bound or run over
    one range.
    """
    return set(shown_by(*expression.atoms(IndexedSum), *expression.atoms(*GUARDS)))


def shown_by(*parts: Expr) -> frozenset[Witness]:
    """Return the edges of the given sums and guards themselves, without those inside them."""
    wanted: set[Witness] = set()
    for part in parts:
        if isinstance(part, IndexedSum):
            wanted |= {(part, seen) for seen in (*part.bound, *pairs_of(part))}
        elif isinstance(part, GUARDS):
            wanted |= {(part, word) for word in _words(part)}
    return frozenset(wanted)


def pairs_of(total: IndexedSum) -> list[tuple[Index, Index]]:
    """Return every two indices of a sum's body that are both bound or run over one range."""
    indices = sorted(free_indices(total.body), key=Index.sort_key)
    pairs = itertools.combinations(indices, 2)
    return [(i, j) for i, j in pairs if i.size == j.size or (i in total.bound and j in total.bound)]


def _words(guard: Expr) -> Sequence[str]:
    """Return the names of a guard's edges."""
    if isinstance(guard, AtMost):
        return tuple(_JUMP.values())
    return tuple(_ENDS.values()) if isinstance(guard, Within) else ("holds", "fails")


_JUMP = {0: "level", 1: "past"}
_ENDS = {(-1, True): "before", (0, True): "first", (-1, False): "last", (0, False): "after"}


def decisive(conditions: Sequence[Expr], at: Environment, point: Point) -> set[Witness]:
    """Return the edges of adjacent guards that this point hits: of all if all hold, of one if it alone fails.

    For a range guard only the range counts: a divisibility guard beside it covers whether its index is an integer.
    """
    sides = [tuple(position(a)(at, point) for a in guard.args) for guard in conditions]
    within = [isinstance(guard, Within) for guard in conditions]
    held = [
        0 <= a < b if w else CONDITIONS[type(g)](a, b) for w, g, (a, b) in zip(within, conditions, sides, strict=True)
    ]
    if held.count(False) > 1:
        return set()
    seen: set[Witness] = set()
    for k in [held.index(False)] if False in held else range(len(held)):
        guard, (a, b) = conditions[k], sides[k]
        if isinstance(guard, AtMost):
            seen |= {(guard, word) for past, word in _JUMP.items() if a - b == past}
        elif within[k]:
            seen |= {(guard, _ENDS[key]) for key in ((a, True), (a - b, False)) if key in _ENDS}
        elif not (isinstance(guard, Divides) and abs(a) == 1):  # one divides everything, so this is no edge
            seen.add((guard, "holds" if held[k] else "fails"))
    return seen
