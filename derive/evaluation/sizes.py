"""Small values for the integers of an expression: lengths of axes, strides, offsets."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, IndexedBase, Symbol

from derive.algebra.index import Index

DEAREST = 30_000


@dataclass(frozen=True)
class Sizes:
    """The integer symbols, in a fixed order: ``axes`` are ranges of indices, ``others`` are strides and offsets."""

    axes: tuple[Symbol, ...]
    others: tuple[Symbol, ...]

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """All symbols."""
        return self.axes + self.others

    @staticmethod
    def least(symbol: Symbol) -> int:
        """Return the least value that a symbol may take."""
        return 0 if not symbol.is_positive else 1

    @classmethod
    def of(cls, expressions: Iterable[Expr], lengths: Iterable[Expr] = ()) -> Sizes:
        """Collect the integers that expressions depend on; ``lengths`` are further lengths of axes."""
        axes: set[Symbol] = set().union(*(length.free_symbols for length in lengths))
        others: set[Symbol] = set()
        for expression in expressions:
            ranges, integers = _integers(expression)
            axes |= ranges
            others |= integers
        return cls(*(tuple(sorted(part, key=lambda s: str(s.name))) for part in (axes, others - axes)))

    def draw(
        self,
        small: set[Symbol],
        seed: int,
        volume: int,
        cost: Callable[[Mapping[Symbol, int]], int] | None = None,
        dearest: int = DEAREST,
    ) -> dict[Symbol, int]:
        """Draw a value for every symbol; axes that have only been one so far come before the others.

        At the smallest points offsets are zero and most strides one, for larger ones would leave nothing to read.
        ``cost`` estimates the cost of a point of such sizes: above ``dearest``, axes are made shorter.
        """
        generator = random.Random(seed)
        sizes = {s: generator.choice((1, 2, 2, 3, 4)) for s in self.axes}
        sizes |= {s: max(sizes[s], 2) for s in self.axes if s in small}
        for symbol in self.others:
            least = self.least(symbol)
            sizes[symbol] = least + generator.choice((0, 1, 1, 2) if volume > 6 else (0, 0, 3 * least))
        order = sorted(self.axes, key=lambda s: (s in small, generator.random()))
        # Sizes of two and three show every effect of an index; many at once only cost time.
        for floor in (3, 2, 1):
            for symbol in order:
                if self._volume(sizes) > volume:
                    sizes[symbol] = min(sizes[symbol], floor)
        if cost is None:
            return sizes
        for symbol, floor in [(symbol, floor) for floor in (3, 2, 1) for symbol in order if sizes[symbol] > floor]:
            if cost(sizes) <= dearest:
                break
            sizes[symbol] = floor
        return sizes

    def _volume(self, sizes: Mapping[Symbol, int]) -> int:
        return math.prod(sizes[s] for s in self.axes)


@lru_cache(maxsize=10_000)
def _integers(expression: Expr) -> tuple[frozenset[Symbol], frozenset[Symbol]]:
    """Return the symbols in the ranges of an expression's indices and integer tensors, and its other integers."""
    atoms = expression.atoms(Symbol, IndexedBase)
    ranges = [a.size if isinstance(a, Index) else getattr(a, "values", sympy.S.Zero) for a in atoms]
    others = (a for a in atoms if isinstance(a, Symbol) and not isinstance(a, Index) and a.is_integer)
    return frozenset().union(*(r.free_symbols for r in ranges)), frozenset(others)
