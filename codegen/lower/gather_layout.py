"""The layout of a gather: which axes of a tensor it takes whole, and which it reads at computed positions.

    x[s,c,2*p + k]      axes 0 and 1 whole; along axis 2 a grid over p and k       gives (s, c, p, k)
    W[t[s,p],i]         along axis 0 a grid over s and p; axis 1 whole             gives (s, p, i)
    x[i,c,i]            along axes 0 and 2 a grid over i; axis 1 whole             gives (i, c)

The grid's axes take the place of the first axis that is read at positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sympy import Expr

from codegen.ir.program import Gather, Scatter
from derive.algebra.index import Index
from derive.forward_map import BATCH


@dataclass(frozen=True)
class Placement:
    """``order`` permutes the source's axes: ``start`` whole axes, then those read at ``positions``, then the rest."""

    order: tuple[int, ...]
    start: int
    positions: tuple[Expr, ...]
    whole: tuple[Index, ...]
    grid: tuple[Index, ...]

    @property
    def indices(self) -> tuple[Index, ...]:
        """The indices of the gathered value; only the batch index if it has none."""
        return (*self.whole[: self.start], *self.grid, *self.whole[self.start :]) or (BATCH,)

    @property
    def spread(self) -> bool:
        """Whether the gathered value is one number, repeated along the batch."""
        return not self.whole and not self.grid


def placement(positions: Sequence[Expr], axes: Sequence[Index]) -> Placement:
    """Return the layout of a gather from a tensor with these axes; there is one position per axis.

    An index over only a part of an axis counts as a position: ``x[s,j]`` with j < n - 1.
    """
    counts = Counter(i for p in positions for i in p.atoms(Index))
    plain = [k for k, p in enumerate(positions) if isinstance(p, Index) and counts[p] == 1]
    whole = [k for k in plain if positions[k].size == axes[k].size]
    read = [k for k in range(len(positions)) if k not in whole]
    before = [k for k in whole if not read or k < read[0]]
    after = [k for k in whole if k not in before]
    return Placement(
        order=(*before, *read, *after),
        start=len(before),
        positions=tuple(positions[k] for k in read),
        whole=tuple(p for k in (*before, *after) for p in [positions[k]] if isinstance(p, Index)),
        grid=indices_of(positions[k] for k in read),
    )


def placement_of(instruction: Gather | Scatter) -> Placement:
    """Return the layout of a gather's operand, or of a scatter's target."""
    axes = instruction.operand.indices if isinstance(instruction, Gather) else instruction.target.indices
    return placement(instruction.positions, axes)


def indices_of(expressions: Iterable[Expr]) -> tuple[Index, ...]:
    """Return the indices of index expressions in the order in which they first occur, the batch index first."""
    found: dict[Index, None] = {}
    for expression in expressions:
        coefficients = {i: str(expression.coeff(i)) for i in expression.atoms(Index)}
        order = sorted(coefficients, key=lambda i: (coefficients[i], str(i.size), i.sort_key()), reverse=True)
        found.update(dict.fromkeys(order))
    return tuple(sorted(found, key=lambda i: i != BATCH))
