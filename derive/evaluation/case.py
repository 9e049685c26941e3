"""One point of evaluation, prepared for statements: the layer, some output entries and derived expressions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sympy import Expr

from derive.algebra.index import Index
from derive.evaluation.evaluate import evaluate
from derive.evaluation.points import Point
from derive.evaluation.reference import Place, Reference

if TYPE_CHECKING:
    from derive.forward_map import Layer


@dataclass
class Case:
    """A layer's reference, the point for derived expressions, and the places to compare."""

    reference: Reference
    plain: Point
    places: tuple[Place, ...]

    @classmethod
    def at(cls, layer: Layer, plain: Point) -> Case:
        """Return the case of a layer at a point."""
        reference = Reference.at(layer, plain)
        return cls(reference, plain, _some(reference.places, plain.seed))

    @property
    def indices(self) -> tuple[Index, ...]:
        """The output's indices."""
        return self.reference.layer.output.indices

    def pairs(self) -> Iterator[tuple[Place, Place]]:
        """Yield every ordered pair of places, including each with itself."""
        yield from itertools.product(self.places, self.places)

    def derived(self, expression: Expr, here: Place, there: Place | None = None) -> Any:
        """Return a derived expression at a place, with its primed indices at ``there``."""
        at = dict(zip(self.indices, here, strict=True))
        at |= dict(zip((i.primed() for i in self.indices), here if there is None else there, strict=True))
        return evaluate(expression, at, self.plain)

    def same(self, left: Any, right: Any) -> bool:
        """Return whether two numbers agree."""
        return self.plain.field.same(left, right)

    def alike(self, here: Place, there: Place, indices: tuple[Index, ...]) -> bool:
        """Return whether two places agree in some of the output's indices."""
        return all(a == b for i, a, b in zip(self.indices, here, there, strict=True) if i in indices)

    def words(self, here: Place, there: Place | None = None) -> str:
        """Return a place, or two, in readable form."""
        shown = [f"{i.name}={v}" for i, v in zip(self.indices, here, strict=True)]
        if there is not None:
            shown += [f"{i.name}'={v}" for i, v in zip(self.indices, there, strict=True)]
        return ", ".join(shown)


def _some(places: tuple[Place, ...], seed: int) -> tuple[Place, ...]:
    """Return a random place, for each index one that differs in that index alone, and one at random."""
    draw = random.Random(seed)
    first = draw.choice(places)
    chosen = [first]
    for axis in range(len(first)):
        near = [
            p for p in places if p[axis] != first[axis] and p[:axis] + p[axis + 1 :] == first[:axis] + first[axis + 1 :]
        ]
        chosen += [draw.choice(near)] if near else []
    return tuple(dict.fromkeys((*chosen, draw.choice(places))))
