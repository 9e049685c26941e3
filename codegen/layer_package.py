"""A package with one layer: a class for each cancelling map that the solver finds, whatever the layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from sympy import Expr

from codegen.layer_plan import LayerPlan, layer_plan
from codegen.package import MANIFEST, SCHEMA, check_name
from codegen.solve_at import solve_at
from codegen.targets.cpp.layer_target import layer_files as cpp_files
from codegen.targets.torch.layer_target import layer_files as torch_files
from codegen.targets.torch.layer_words import class_name
from derive.errors import UsageError
from derive.export.prose import plain
from derive.forward_map import Layer

ANGLE = "angle-like"


def build_layer(
    layer: Layer, package: str = "", angle: Expr | None = None, targets: Sequence[str] = ("torch", "cpp")
) -> dict[str, str]:
    """Derive the maps of a layer and return the text of every file by its name; the package is named after the layer.

    With ``angle`` the member of the family at that angle is one of the maps. Raise ``UsageError`` with the derivation's
    reason where there is no map, and for names that code cannot use.
    """
    check_name(package or layer.name)
    unknown = set() if angle is None else {s for s in angle.free_symbols if s.is_integer} - set(layer.sizes)
    if unknown:
        raise UsageError(
            f"the angle {angle} uses {min(unknown, key=str)}, which is no size of the layer {layer.name!r}; declare it"
        )
    solutions = solve_at(layer, angle)
    reasons = "; ".join(plain(refusal.reason) for refusal in solutions.refusals)
    if not solutions.maps:
        raise UsageError(f"layer {layer.name!r}: there is no map to generate: {reasons}")
    plans = [layer_plan(m, ANGLE if m.name == "angle" else m.name) for m in solutions]
    return _with_manifest(layer, plans, package or layer.name, reasons, targets)


def _with_manifest(
    layer: Layer, plans: Sequence[LayerPlan], package: str, refused: str, targets: Sequence[str]
) -> dict[str, str]:
    texts = torch_files(layer, plans)
    if "cpp" in targets:
        texts |= cpp_files(layer, plans)
    texts = dict(sorted(texts.items()))
    manifest = {
        "schema": SCHEMA,
        "package": package,
        "layer": layer.name,
        "classes": {class_name(layer, plan): plan.layer.name for plan in plans},
        "refused": refused,
        "derivations": {plan.layer.name: plan.digest for plan in plans},
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    texts[MANIFEST] = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    return texts
