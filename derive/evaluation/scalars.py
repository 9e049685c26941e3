"""The statements on the two scalars of a map: its angle, its decomposition, its kind, the scale of its weights.

L = length of the factors of the weights' entries, r = sqrt(E)       l = the same for the offsets
angle t               L = sqrt(kappa) sin t(r),  l = sqrt(kappa) cos t(r)
decomposition         L = scale activation(r),   m = scale offset o  for the entries of offsets
normalising           L is the same at every sample
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sympy

from derive.evaluation.agreement import shown
from derive.evaluation.case import Case
from derive.evaluation.evaluate import evaluate
from derive.evaluation.findings import Refuted, Statement, over
from derive.evaluation.reference import Place, Reference

if TYPE_CHECKING:
    from derive.record import CancellingMap

_half = sympy.Rational(1, 2)


def original(found: CancellingMap, case: Case) -> Reference:
    """Return the layer that a map corrects, at the same inputs and parameters as the map."""
    layer = found.layer
    scope = {d.base: d for d in layer.definitions}
    return Reference.at(layer, replace(case.plain, scope=scope, memory=dict(case.plain.memory), kept={}, nudges={}))


def scalar_statements(found: CancellingMap, prefix: str) -> list[Statement]:
    """Return the statements on the scalars of a map."""
    about = _Scalars(found)
    normalising = found.kind == "normalising"
    statements = [
        Statement(f"{prefix}-decomposition", "the map's parts make up its scalars", about.decomposition),
        Statement(
            f"{prefix}-kind",
            f"the map is {found.kind}",
            about.alike if normalising else about.differs,
            "" if normalising else "two samples of different length",
        ),
    ]
    if found.angle is not None:
        statements.append(Statement(f"{prefix}-angle", "the angle gives both scalars", about.angle))
    return statements


class _Scalars:
    """The statements on the scalars of one map."""

    def __init__(self, found: CancellingMap) -> None:
        self.found = found
        self.weights, self.offsets = found.zero.weights, [p for p, _ in found.scales if p not in found.zero.weights]

    def length(self, case: Case, place: Place, names: Iterable[str]) -> Any:
        """Return the length of the factors of some parameters' entries in the map."""
        slopes = case.reference.slopes(place)
        return Decimal(sum((s * s for key, s in slopes.items() if key[0] in names), Decimal(0))).sqrt()

    def along(self, case: Case, place: Place, expression: Any) -> Any:
        """Return the value of a function of r at a place, r the root of the map's energy."""
        energy, at = self.found.energy, dict(zip(case.indices, place, strict=True))
        value = evaluate(energy.expression, {i: at[i] for i in energy.indices}, case.reference.point)
        length = case.plain.field.power(value, _half)
        memory = {**case.plain.memory, ("r", ()): (length, None), ("E", ()): (value, None)}
        return evaluate(expression, {}, replace(case.plain, memory=memory, kept={}, nudges={}))

    def angle(self, case: Case) -> bool:
        """Compare both lengths with the sine and cosine of the angle."""
        kappa = case.plain.memory[(str(self.found.kappa), ())][0]

        def look(place: Place) -> None:
            """Compare the stated lengths at one place with those of the angle."""
            stated = self.along(case, place, self.found.angle)
            for wave, names in ((sympy.sin, self.weights), (sympy.cos, self.offsets)):
                value = kappa.sqrt() * case.plain.field.value(wave, [stated])
                actual = self.length(case, place, names)
                if not case.same(actual, abs(value)):
                    raise Refuted(f"the angle gives {shown(value)}, not {shown(actual)}, at {case.words(place)}")

        return over(case.places, look)

    def decomposition(self, case: Case) -> bool:
        """Compare both lengths with the parts of the map."""
        parts = dict(self.found.decomposition)

        def look(place: Place) -> None:
            """Compare the stated lengths at one place with those measured."""
            scale, activation, offset = (self.along(case, place, parts[n]) for n in ("scale", "activation", "offset"))
            beside = abs(scale * offset) * self.own(case, place)
            for stated, names in ((abs(scale * activation), self.weights), (beside, self.offsets)):
                actual = self.length(case, place, names)
                if not case.same(actual, stated):
                    raise Refuted(f"the parts give {shown(stated)}, not {shown(actual)}, at {case.words(place)}")

        return over(case.places, look)

    def own(self, case: Case, place: Place) -> Any:
        """Return the length of the factors of the offsets' entries in the layer itself."""
        slopes = original(self.found, case).slopes(place)
        return Decimal(sum((s * s for key, s in slopes.items() if key[0] in self.offsets), Decimal(0))).sqrt()

    def pairs(self, case: Case) -> list[tuple[Any, Any]]:
        """Return the lengths for weights and offsets (relative to the layer's own) at every place with a value."""
        found: list[tuple[Any, Any]] = []

        def look(place: Place) -> None:
            own = self.own(case, place) or Decimal(1)
            found.append((self.length(case, place, self.weights), self.length(case, place, self.offsets) / own))

        over(case.places, look)
        return found

    def alike(self, case: Case) -> bool:
        """A normalising map loses the length: its scalars are the same at every sample."""
        first, *others = self.pairs(case)
        for other in others:
            if not all(case.same(a, b) for a, b in zip(first, other, strict=True)):
                raise Refuted(f"two samples have factors of length {shown(first[0])} and {shown(other[0])}")
        return True

    def differs(self, case: Case) -> bool:
        """Any other map keeps it: somewhere two samples differ."""
        first, *others = self.pairs(case)
        return any(not case.same(a, b) for other in others for a, b in zip(first, other, strict=True))
