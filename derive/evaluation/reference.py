"""A layer at one point, from its forward map alone: outputs, slopes of every declared parameter, kernel, steps.

    J[o, theta] = dz[o]/d theta        K[o, o'] = sum over theta of J[o, theta] J[o', theta]        G = J^T g

``o`` is a *place*, the values of all output indices; ``theta`` is an entry of a declared parameter. An entry outside
its tensor is zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from derive.evaluation.evaluate import compiled, evaluate
from derive.evaluation.points import Key, Point

if TYPE_CHECKING:
    from derive.forward_map import Layer

Place = tuple[int, ...]
Slopes = Mapping[Key, Any]


@dataclass
class Reference:
    """A layer at a point; ``plain`` is a point with the same seed, at which derived expressions are evaluated."""

    layer: Layer
    point: Point
    plain: Point
    known: dict[tuple[Place, tuple[str, ...]], Slopes] = field(default_factory=dict)

    @classmethod
    def at(cls, layer: Layer, plain: Point) -> Reference:
        """Return the reference of a layer, next to a point for derived expressions."""
        axes = {t.name: t.axes for t in (*layer.inputs, *layer.parameters)}
        axes |= {d.name: tuple(i.size for i in d.indices) for d in layer.definitions}
        return cls(layer, replace(plain, axes=axes, memory=dict(plain.memory), kept={}, nudges={}, forms={}), plain)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every place of the output."""
        return tuple(itertools.product(*(range(self.point.size(i.size)) for i in self.layer.output.indices)))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the declared parameters."""
        return tuple(p.name for p in self.layer.parameters)

    def value(self, place: Place) -> Any:
        """Return the output at a place."""
        return evaluate(self.layer.output.expression, self._at(place), self.point)

    def slopes(self, place: Place, names: tuple[str, ...] = ()) -> Slopes:
        """Return the slopes of the output at a place, one per entry of every declared parameter or of ``names``."""
        if (place, names) not in self.known:
            moved = self.point.nudged(*(names or self.names))
            self.known[place, names] = compiled(self.layer.output.expression)(self._at(place), moved)[1] or {}
        return self.known[place, names]

    def kernel(self, here: Place, there: Place) -> Any:
        """Return the update kernel at two places."""
        return self.along(here, self.slopes(there))

    def along(self, place: Place, move: Slopes) -> Any:
        """Return how much the output at a place moves, to first order, when the parameters move."""
        slopes = self.slopes(place)
        return self.point.field.tidy(sum(slope * move[key] for key, slope in slopes.items() if key in move))

    def pulled(self, weights: Mapping[Place, Any]) -> dict[Key, Any]:
        """Return ``J^T w``: the gradient with respect to every parameter entry of the outputs weighted by ``w``."""
        total: dict[Key, Any] = {}
        for place, weight in weights.items():
            for key, slope in self.slopes(place).items():
                total[key] = self.point.field.tidy(total.get(key, 0) + weight * slope)
        return total

    def drawn(self, name: str, places: Iterable[Place] | None = None) -> dict[Place, Any]:
        """Return the entries of an unknown tensor over the output, such as the loss gradient."""
        return {place: self.plain.draw(name, place) for place in (places or self.places)}

    def entry(self, key: Key) -> Any:
        """Return the value of a parameter's entry."""
        return self.point.draw(*key)

    def after(self, move: Slopes) -> Reference:
        """Return the same layer with its parameters moved."""
        there = replace(self.point, memory=dict(self._given), kept={}, nudges={})
        for key, step in move.items():
            there.memory[key] = self.point.field.tidy(self.entry(key) + step), None
        return Reference(self.layer, there, self.plain)

    def redrawn(self) -> Reference:
        """Return the same layer at the same inputs with other parameters."""
        salts = dict.fromkeys(self.names, "other")
        there = replace(self.point, memory=dict(self._given), kept={}, nudges={}, salts=salts)
        return Reference(self.layer, there, self.plain)

    @property
    def _given(self) -> dict[Key, Any]:
        """The values that the point was given rather than drew: scalars."""
        return {key: jet for key, jet in self.plain.memory.items() if not key[1] and key[0] not in self.names}

    def _at(self, place: Place) -> dict[Any, int]:
        return dict(zip(self.layer.output.indices, place, strict=True))


def solution(matrix: list[list[Any]], right: list[Any], point: Point) -> list[Any] | None:
    """Solve a square linear system by elimination; None if the matrix is singular or nearly singular."""
    numbers, count = point.field, len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for column in range(count):
        pivot = max(range(column, count), key=lambda k: numbers.weight(rows[k][column]))
        if not numbers.weight(rows[pivot][column]):
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = numbers.inverse(rows[column][column])
        rows[column] = [numbers.tidy(v * inverse) for v in rows[column]]
        for k in range(count):
            factor = rows[k][column]
            if k != column and factor:
                rows[k] = [numbers.tidy(a - factor * b) for a, b in zip(rows[k], rows[column], strict=True)]
    return [row[-1] for row in rows]
