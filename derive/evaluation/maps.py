"""Test the statements about a cancelling map against the map itself and the layer that it corrects.

map         the corrected output is the sum of each parameter's part of the output times its scale
residual    the self factor of the corrected layer is kappa plus the residual
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy

from derive.algebra.index import Index
from derive.evaluation.agreement import Patience, shown
from derive.evaluation.axes import unit_axes
from derive.evaluation.behaviour import behaviour_statements
from derive.evaluation.case import Case
from derive.evaluation.evaluate import evaluate
from derive.evaluation.findings import Finding, Inquiry, Refuted, Statement, over
from derive.evaluation.points import Point
from derive.evaluation.reference import Place
from derive.evaluation.scalars import original, scalar_statements

if TYPE_CHECKING:
    from derive.record import CancellingMap

_ENERGY = "E"
_LEAST_KAPPA = 40  # exceeds the contribution of a layer's offsets at small sizes


def map_findings(found: CancellingMap, seed: int = 0, patience: Patience | None = None) -> list[Finding]:
    """Return the findings of independent evaluation on a map."""
    about = _Map(found)
    # Limits need decimals, so all statements are tested in decimals.
    root = sympy.sqrt(found.kappa)
    expressions = (root, found.residual, found.self_factor, *(scale for _, scale in found.scales))
    return Inquiry(found.mapped, expressions, about.kappa).findings(about.statements(), seed, patience)


def map_statements(found: CancellingMap) -> list[Statement]:
    """Return the statements about a map."""
    return _Map(found).statements()


class _Map:
    """The statements of a map."""

    def __init__(self, found: CancellingMap) -> None:
        self.found = found

    def kappa(self, point: Point) -> None:
        """Set kappa at a point, above its lower bound."""
        key = (str(self.found.kappa), ())
        point.memory[key] = point.draw(*key, positive=True) + _LEAST_KAPPA, None

    def statements(self) -> list[Statement]:
        """Return the statements of the map."""
        prefix = f"{self.found.mapped.name}/result"
        words = "the self factor of the corrected layer is `kappa` times the identity"
        scaled = "the corrected output is each parameter's part times its scale"
        return [
            Statement(f"{prefix}-residual", words, self._residual, step="self-factor"),
            Statement(f"{prefix}-map", scaled, self._scaled),
            *scalar_statements(self.found, prefix),
            *behaviour_statements(self.found, prefix),
        ]

    def _residual(self, case: Case) -> bool:
        kappa, reference = case.plain.memory[(str(self.found.kappa), ())][0], case.reference

        def look(here: Place) -> None:
            """Compare the kernel at one place with kappa plus the residual, and with the stated residual."""
            actual, left = reference.kernel(here, here), case.derived(self.found.residual, here)
            stated = case.derived(self.found.self_factor, here)
            for words, value in (("kappa plus the residual", kappa + left), ("what is stated", stated)):
                if not case.same(actual, value):
                    raise Refuted(f"the self factor is {shown(actual)}, {words} {shown(value)}, at {case.words(here)}")
            if not case.same(left, 0):
                raise Refuted(f"the map does not cancel: {shown(left)} is left at {case.words(here)}")

        told = over(case.places, look)
        return over(case.pairs(), lambda pair: self._apart(case, *pair)) and told

    def _apart(self, case: Case, here: Place, there: Place) -> None:
        """Raise ``Refuted`` if two units of one sample interact: the self factor must be kappa times the identity."""
        units = {k for k, i in enumerate(case.indices) if i in self._units}
        sample = all(a == b for k, (a, b) in enumerate(zip(here, there, strict=True)) if k not in units)
        if sample and here != there and not case.same(case.reference.kernel(here, there), 0):
            raise Refuted(f"two units of a sample interact at {case.words(here, there)}")

    @cached_property
    def _units(self) -> set[Index]:
        return unit_axes(self.found.mapped)

    def _scaled(self, case: Case) -> bool:
        """Rebuild the corrected output from the layer's own slopes, and the scales from its own energy."""
        own = original(self.found, case)

        def look(place: Place) -> None:
            """Compare the map at one place with the layer scaled as stated."""
            parts: dict[str, Any] = {}
            for key, slope in own.slopes(place).items():
                parts[key[0]] = parts.get(key[0], 0) + slope * own.entry(key)
            scales, actual = self._scales(case, place), case.reference.value(place)
            if parts.keys() - scales.keys():
                raise Refuted(f"no scale is stated for {', '.join(sorted(parts.keys() - scales.keys()))}")
            rest = own.value(place) - sum(parts.values())
            rebuilt = rest + sum(scales[name] * part for name, part in parts.items())
            if not case.same(actual, rebuilt):
                words = f"{shown(actual)}, and the scaled parts add up to {shown(rebuilt)}"
                raise Refuted(f"the corrected output is {words}, at {case.words(place)}")

        return over(case.places[:3], look)

    def _scales(self, case: Case, place: Place) -> dict[str, Any]:
        """Return each parameter's scale at a place, from the map's own energy."""
        found, layer = self.found, self.found.mapped
        if len(layer.definitions) <= len(found.layer.definitions):
            raise Refuted("the corrected layer has no energy")
        energy = layer.definitions[len(found.layer.definitions)]
        at = dict(zip(case.indices, place, strict=True))
        value = evaluate(energy.expression, {i: at[i] for i in energy.indices}, case.reference.point)
        there = replace(case.plain, memory={**case.plain.memory, (_ENERGY, ()): (value, None)}, kept={}, nudges={})
        return {name: evaluate(scale, at, there) for name, scale in found.scales}
