"""One row per layer: its self factor and the maps that cancel it, for the table of all layers.

Deriving every layer takes seconds, so ``layer_table.json`` beside this module keeps the rows of the built-in layers. A
row is used only if its digest is that of the layer's forward map; otherwise it is derived anew. A test derives all rows
again and compares them with the file, which ``pytest tests/derive/export --update`` rewrites.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sympy import Expr

from derive.export.outline import Chapter
from derive.export.prose import plain
from derive.export.record_trees import record_tree
from derive.export.symbols import notation_for
from derive.export.text import text
from derive.forward_map import Layer
from derive.record import Derivation

TABLE = Path(__file__).with_name("layer_table.json")
SCHEMA = "affdiv.layers/1"
CHAPTERS = (  # of the document in paper_notes: one layer of each kind
    "affine",
    "linear",
    "convolution",
    "grouped-convolution",
    "transposed-convolution",
    "embedding",
    "embedding-bag",
    "attention",
    "qk-norm>attention",
    "low-rank",
    "gated",
    "rms-norm>affine",
    "layer-norm>affine",
    "batch-norm>affine",
    "affine>rms-norm",
    "affine>gain",
)

Row = dict[str, Any]


def full_derivation(layer: Layer, angle: Expr | None = None) -> Derivation:
    """Derive a layer and solve for its cancelling maps, including the one of an angle function if given."""
    from derive.cancel import solve
    from derive.update import effective_update

    found = solve(layer, angle)
    return replace(effective_update(layer), solutions=tuple(found.maps), refusals=tuple(found.refusals))


def chapter(layer: Layer, check: bool) -> Chapter:
    """Return a layer's chapter: its derivation, and for an affine map also those under other update rules."""
    from derive.check import checked
    from derive.rules import RULES
    from derive.update import effective_update

    derivation = full_derivation(layer)
    others = tuple(effective_update(layer, rule) for rule in RULES) if layer.name == "affine" else ()
    if check:
        derivation, others = checked(derivation), tuple(checked(other) for other in others)
    return Chapter(derivation, others)


def layer_rows(layers: Mapping[str, Layer], kept: Mapping[str, Row] | None = None) -> list[Row]:
    """Return one row per layer by its name, from the kept table if it is up to date."""
    kept = kept_rows() if kept is None else kept
    rows = []
    for name, layer in layers.items():
        row = kept.get(name, {})
        rows.append(row if row.get("forward_map") == digest(layer) else layer_row(name, layer))
    return rows


def with_generated(rows: Iterable[Row]) -> list[Row]:
    """Return the rows, each with the ids of its maps for which the installed package holds generated code."""
    known = _generated()
    return [{**row, "generated": [found["id"] for found in row["maps"] if found["id"] in known]} for row in rows]


def _generated() -> set[str]:
    """Return the ids of the maps in the generated package's manifest."""
    said = generated_manifest()
    return {*said.get("derivations", ()), *said.get("covers", ())}


def generated_manifest() -> dict[str, Any]:
    """Return the generated package's manifest, without importing the package; empty if there is none."""
    spec = importlib.util.find_spec("affine_divergence")
    manifest = Path(spec.origin).with_name("manifest.json") if spec and spec.origin else None
    if manifest is None or not manifest.is_file():
        return {}
    said: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return said


def kept_rows() -> dict[str, Row]:
    """Return the rows of the kept table by layer name; none if there is no table."""
    if not TABLE.is_file():
        return {}
    return {row["name"]: row for row in json.loads(TABLE.read_text(encoding="utf-8"))["layers"]}


def layer_row(name: str, layer: Layer) -> Row:
    """Derive one row. A layer without parameters has no update: its self factor is None."""
    row: Row = {"name": name, "title": layer.title, "forward_map": digest(layer), "self_factor": None}
    row |= {"maps": [], "refusals": []}
    if not layer.parameters:
        return row
    derivation = full_derivation(layer)
    factor, notation = derivation.self_factor, notation_for(layer)
    row["self_factor"] = {
        "text": text(factor.expression, notation.hints),
        "latex": notation(factor.expression),
        "shape": factor.shape,
        "isotropic": factor.isotropic,
        "parameter_free": factor.parameter_free,
    }
    row["maps"] = [
        {"name": found.name, "id": found.mapped.name, "part": "" if found.layer == layer else found.layer.name}
        for found in derivation.solutions
    ]
    row["refusals"] = [{"kind": refusal.kind, "reason": plain(refusal.reason)} for refusal in derivation.refusals]
    return row


def digest(layer: Layer) -> str:
    """Return the digest of a layer's forward map."""
    tree = json.dumps(record_tree(layer), sort_keys=True)
    return hashlib.sha256(tree.encode()).hexdigest()[:16]


def table_text(rows: Iterable[Row]) -> str:
    """Return the text of the kept table."""
    return json.dumps({"schema": SCHEMA, "layers": list(rows)}, indent=1) + "\n"
