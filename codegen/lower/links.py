"""Read the links of a convolution off the index arithmetic and guards of a sum in normal form.

Two equal forms of the same sum:

    W[o,c,k] * x[s,c,stride*p + dilation*k - padding] * Within(stride*p + dilation*k - padding, L)
    W[o,c,k] * x[s,c,l]     where    l = stride*p + dilation*k - padding,    summed over l as well

An index expression becomes an index of its own. Its guards become redundant: no index equals the expression where it
leaves its axis or is not an integer. A guard without such an entry restricts the entries of a filter; a delta relates
positions. All three are linear relations, and a relation of three indices is a link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import sympy
from sympy import Expr, Indexed, KroneckerDelta, Mul

from codegen.ir.link import Link
from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import Divides, IndexedSum, Within

Axes = Callable[[Indexed], tuple[Expr, ...]]


@dataclass
class Relations:
    """The factors of a sum with plain indices only, the summed indices, and the links between indices.

    ``odd`` is a part of the sum that is none of these; a sum with one has no program.
    """

    factors: list[Expr]
    bound: list[Index]
    links: list[Link] = field(default_factory=list)
    odd: Expr | None = None


def relations(total: IndexedSum, axes: Axes, kernels: Iterable[Expr]) -> Relations:
    """Return the plain form of a sum; ``axes`` gives the axis lengths of an entry, ``kernels`` those of filters."""
    reader = _Reader(total, axes, frozenset(kernels))
    return reader.result()


class _Reader:
    """Analyses a sum; equal index expressions get the same index."""

    def __init__(self, total: IndexedSum, axes: Axes, kernels: frozenset[Expr]) -> None:
        factors = Mul.make_args(total.body)
        self._guards = [f for f in factors if is_guard(f)]
        self._factors = [f for f in factors if not is_guard(f)]
        self._bound = list(total.bound)
        self._axes, self._kernels = axes, kernels
        self._names: dict[tuple[Expr, Expr], Index] = {}

    def result(self) -> Relations:
        """Return the factors, the links, and as ``odd`` the first part that is neither."""
        plain = [self._plain(f) for f in self._factors]
        for guard in [g for g in self._guards if isinstance(g, Within)]:
            self._named(*guard.args)
        equations = [index - value for (value, _), index in self._names.items()]
        for delta in [g for g in self._guards if isinstance(g, KroneckerDelta)]:
            equations.append(delta.args[0] - delta.args[1])
            self._guards.remove(delta)
        found = Relations(plain, self._bound)
        for equation in equations:
            link = self._link(equation)
            if link is None:
                found.odd = equation
                return found
            found.links.append(link)
        found.links.sort(key=lambda link: tuple(str(i.size) for i in link.indices))
        found.odd = self._guards[0] if self._guards else None
        return found

    def _plain(self, factor: Expr) -> Expr:
        """Return the factor with an index of its own for every index expression in its entries."""
        swap = {}
        for entry in factor.atoms(Indexed):
            sizes = self._axes(entry)
            indices = [
                i if isinstance(i, Index) else self._named(i, n) for i, n in zip(entry.indices, sizes, strict=True)
            ]
            swap[entry] = entry.base[tuple(indices)]
        return factor.xreplace(swap)

    def _named(self, value: Expr, size: Expr) -> Index:
        """Return the index that stands for a value, and drop the guards that it makes redundant."""
        if (value, size) not in self._names:
            index = Index("l", size).fresh()
            self._names[value, size] = index
            self._bound.append(index)
            above, below = sympy.fraction(sympy.together(value))
            needless = (Within(value, size), Divides(below, above))
            self._guards = [g for g in self._guards if g not in needless]
        return self._names[value, size]

    def _link(self, equation: Expr) -> Link | None:
        """Return the link that an equation ``expression = 0`` states, if it is linear in three indices."""
        expanded = sympy.expand(sympy.numer(sympy.together(equation)))
        indices = sorted(expanded.atoms(Index), key=Index.sort_key)
        coefficients = {i: expanded.coeff(i, 1) for i in indices}
        rest = sympy.expand(expanded - sum(c * i for i, c in coefficients.items()))
        if len(indices) != 3 or any(e.atoms(Index) for e in (rest, *coefficients.values())):
            return None
        negative = [i for i in indices if coefficients[i].could_extract_minus_sign()]
        alone = negative if len(negative) == 1 else [i for i in indices if i not in negative]
        if len(alone) != 1 or coefficients[alone[0]] not in (1, -1):
            return None
        long, sign = alone[0], coefficients[alone[0]]
        position, kernel = sorted((i for i in indices if i != long), key=lambda i: i.size in self._kernels)
        return Link(long, position, kernel, -coefficients[position] / sign, -coefficients[kernel] / sign, rest / sign)
