"""The closest remedies if no map cancels, and expected spreads, as JSON and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from derive.export.symbols import Notation, notation_for
from derive.export.terminal import formula_lines, words
from derive.export.text import text
from derive.forward_map import Layer
from derive.record import Derivation
from derive.remedies import Remedy, remedies
from derive.spread import expected_spread

Json = dict[str, Any]
_MOST = 600  # characters of a residual that a terminal shows


def best_to_json(derivation: Derivation) -> list[Json]:
    """Return the remedies of a layer, the smallest residual first; none if a map cancels or nothing needs it."""
    factor = derivation.self_factor
    constant = factor.parameter_free and not factor.expression.free_symbols - set(derivation.layer.sizes)
    if derivation.solutions or constant:
        return []
    notation = notation_for(derivation.layer)
    return [_to_json(remedy, notation) for remedy in remedies(derivation.layer)]


def _to_json(remedy: Remedy, notation: Notation) -> Json:
    divisor = None if remedy.divisor is None else text(remedy.divisor, notation.hints)
    return {
        "name": remedy.name,
        "says": remedy.says,
        "changes_map": remedy.changes_map,
        "divisor": divisor,
        "residual": {"text": text(remedy.residual, notation.hints)},
        "size": remedy.size,
    }


def best_lines(best: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the remedies for a terminal: what to do, the divisor, and the size and form of the residual."""
    lines: list[str] = []
    for remedy in best:
        size = "not measured" if remedy["size"] is None else f"{remedy['size']:.3g}"
        kind = "the map changes" if remedy["changes_map"] else "the map stays"
        lines += words(f"{remedy['name']}: {remedy['says']} ({kind}); residual {size}", "  ")
        if remedy["divisor"]:
            lines += formula_lines(_short(remedy["divisor"]), "      ", "divisor  = ")
        lines += formula_lines(_short(remedy["residual"]["text"]), "      ", "residual = ")
    lead = (
        "the best that exists, to first order in eta; residual: size of c K_ss - I at random points, at its best rate"
    )
    return [*words(lead, ""), *lines] if lines else []


def spread_to_json(layer: Layer, inputs: str) -> Json:
    """Return the expected spread of a layer's self factor for inputs of the named statistics."""
    found, notation = expected_spread(layer, inputs), notation_for(layer)
    parts = {"mean": found.mean, "variance": found.variance, "coefficient_of_variation": found.variation}
    shown = {name: {"text": text(part, notation.hints), "latex": notation(part)} for name, part in parts.items()}
    return {"inputs": inputs, "assumes": found.says, **shown}


def spread_lines(spread: Mapping[str, Any]) -> list[str]:
    """Return an expected spread for a terminal."""
    if not spread:
        return []
    lines = ["", *words(f"expected spread: {spread['assumes']}", "")]
    for name in ("mean", "variance", "coefficient_of_variation"):
        lead = f"{name.replace('coefficient_of_', '')} = "
        lines += formula_lines(spread[name]["text"], "    ", lead)
    return lines


def _short(formula: str) -> str:
    return formula if len(formula) <= _MOST else f"{formula[:_MOST]} ..."
