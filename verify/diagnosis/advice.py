"""Advise how to correct a layer: the map that ``derive.solve`` finds, and our layer that implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from sympy import Expr
from torch import nn

import affine_divergence as ad
from derive.export.symbols import notation_for
from derive.export.text import text
from derive.record import CancellingMap
from verify.derived import derived
from verify.diagnosis.findings.thresholds import CROSS
from verify.diagnosis.record import LayerDiagnosis

GAIN = "gain"  # of a norm: its self factors differ between units by design
EVEN = 1 + 1e-3  # a spread up to this can be rounding alone


def advise(layers: Sequence[LayerDiagnosis], model: nn.Module) -> tuple[LayerDiagnosis, ...]:
    """Return the layers, with advice for each whose self factor varies."""
    uneven = {name for m in layers if m.factors.ratio > EVEN for name in (m.name, m.name.rpartition(".")[0])}
    asked = {name: m for name, m in model.named_modules() if name in uneven}
    settings = {name: _settings(module) for name, module in asked.items()}
    kinds = {setting: name for name, setting in settings.items()}
    one_of_each = set(kinds.values())
    found = ad.convert(model, lambda _, name: name in one_of_each, dry_run=True, without_bias="norm-like")
    new = {entry.name: entry.new for entry in found.replaced}
    counterparts = {name: new[kinds[setting]] for name, setting in settings.items() if kinds[setting] in new}
    return tuple(replace(layer, advice=_advice(layer, counterparts)) for layer in layers)


def _settings(module: nn.Module) -> tuple[object, ...]:
    """Return the settings that determine a module's replacement: all but its sizes."""
    parameters = tuple((word, p is not None, p is not None and p.dtype) for word, p in module._parameters.items())
    own = tuple(sorted(word for word in module.__dict__ if not word.startswith("_")))
    odd = tuple(type(child) for child in module.children()), getattr(module, "padding_mode", "")
    return type(module), parameters, own, tuple(module._buffers), odd


def _advice(layer: LayerDiagnosis, counterparts: Mapping[str, str]) -> str:
    if layer.factors.ratio <= EVEN:
        return ""
    found = best_map(layer.law)
    if not found:
        return ""
    name, formula = found
    names = (layer.name, layer.name.rpartition(".")[0])
    new = next((counterparts[n] for n in names if n in counterparts), "")
    if new:
        setting = "" if name == "affine-like" else ", without_bias='norm-like'"
        way = f"ad.{new}, or ad.convert(model{setting})"
    else:
        way = f"affine_divergence has no replacement for {layer.type}"
    patch = " of the patch at a position" if layer.sample == "position" else ""
    advice = f"{name}: {formula}, with x the input{patch}, cancels it ({way})"
    if layer.shares is not None and layer.shares.cross >= CROSS:
        return (
            f"little to gain: {100 * CROSS:g} % or more of its change are cross terms, which no map changes; {advice}"
        )
    return advice


@cache
def map_latex(law: str) -> str:
    """Return the equation of ``best_map`` as LaTeX, or an empty text if there is none."""
    found = _best(law)
    if found is None:
        return ""
    notation = notation_for(found.mapped)
    z, f = (notation(expression) for expression in (found.map, _scale(found)))
    return rf"z_{{si}} = {z}, \quad f_{{s}} = {f}"


@cache
def best_map(law: str) -> tuple[str, str] | None:
    """Return name and formula of a map that cancels a layer's divergence: the non-normalising one if it exists.

    ``law`` is a layer's name; a layer that is itself a cancelling map, such as ``affine>norm-like``, has none.
    """
    found = _best(law)
    if found is None:
        return None
    hints = notation_for(found.mapped).hints
    return found.name, f"z = {text(found.map, hints)}, f[s] = {text(_scale(found), hints)}"


def _best(law: str) -> CancellingMap | None:
    if ">" in law or law == GAIN or not derived(law).solutions:
        return None
    return min(derived(law).solutions, key=lambda m: m.kind != "non-normalising")


def _scale(found: CancellingMap) -> Expr:
    """Return the scale of a row with definitions expanded."""
    scale = next(d for d in found.mapped.definitions if d.name == "f")
    return scale.expression.xreplace({d.entry: d.expression for d in found.mapped.definitions if d.name == "E"})
