"""What would correct a layer: the maps that ``derive.solve`` finds for it, and the layer that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from torch import nn

import affine_divergence as ad
from derive.export.symbols import notation_for
from derive.export.text import text
from verify.derived import derived
from verify.diagnosis.record import LayerDiagnosis

EVEN = 1 + 1e-3  # a spread that rounding alone can make


def advise(layers: Sequence[LayerDiagnosis], model: nn.Module) -> tuple[LayerDiagnosis, ...]:
    """Return the layers with advice on each whose self factor varies."""
    plain = {r.name: r.new for r in ad.convert(model, dry_run=True).replaced}
    normalising = {r.name: r.new for r in ad.convert(model, dry_run=True, without_bias="norm-like").replaced}
    return tuple(replace(layer, advice=_advice(layer, plain, normalising)) for layer in layers)


def _advice(layer: LayerDiagnosis, plain: dict[str, str], normalising: dict[str, str]) -> str:
    if layer.factors.ratio <= EVEN:
        return ""
    found = best_map(layer.law)
    if not found:
        return ""
    name, formula = found
    names = (layer.name, layer.name.rpartition(".")[0])
    kept, without = (next((table[n] for n in names if n in table), "") for table in (plain, normalising))
    if name == "affine-like" and kept:
        way = f"ad.{kept}, or ad.convert(model)"
    elif name != "affine-like" and (without or kept):
        way = f"ad.{without or kept}, or ad.convert(model, without_bias='norm-like')"
    else:
        way = f"no layer of affine_divergence takes the place of {layer.type}"
    patch = " of the patch at a position" if layer.sample == "position" else ""
    return f"{name}: {formula}, x the input{patch}, cancels it ({way})"


@cache
def best_map(law: str) -> tuple[str, str] | None:
    """Return name and formula of the map that cancels a layer's divergence, the non-normalising one where it exists.

    ``law`` is a layer's name; one that is itself a cancelling map, ``affine>norm-like``, has none.
    """
    if ">" in law or not derived(law).solutions:
        return None
    found = min(derived(law).solutions, key=lambda m: m.kind != "non-normalising")
    hints = notation_for(found.mapped).hints
    scale = next(d for d in found.mapped.definitions if d.name == "f")
    inside = {d.entry: d.expression for d in found.mapped.definitions if d.name == "E"}
    written = text(scale.expression.xreplace(inside), hints)
    return found.name, f"z = {text(found.map, hints)}, f[s] = {written}"
