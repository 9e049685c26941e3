"""The atlas: layers of the literature as layer files, each with its source, and update rules of optimisers.

Deriving every layer takes a minute, so ``table.json`` keeps their rows, as ``derive.export.summary`` does for built-in
layers. A row is used only if its digest is that of the layer's forward map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from derive.forward_map import Layer

FOLDER = Path(__file__).parent
TABLE = FOLDER / "table.json"
SCHEMA = "affdiv.atlas/1"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Gated units and experts": ("swiglu", "geglu", "bilinear", "moe-router", "film"),
    "Weights that are normalised": (
        "weight-norm",
        "weight-standardisation",
        "spectral-norm",
        "cosine-normalisation",
        "dora",
    ),
    "Activations that are normalised, or made as if": (
        "scale-norm",
        "dynamic-tanh",
        "dynamic-isru",
        "evonorm-b0",
        "evonorm-s0",
        "selu",
        "unified-normalisation",
        "divisive-normalisation",
    ),
    "Weights with structure": (
        "lora",
        "tied-autoencoder",
        "kronecker",
        "circulant",
        "separable-convolution",
    ),
    "Distances and waves": ("radial", "harmonic", "siren"),
    "Attention and recurrence": (
        "masked-attention",
        "grouped-query-attention",
        "linear-attention",
        "softmax-free-attention",
        "delta-rule",
        "gated-delta-rule",
        "s4d",
    ),
    "Heads": ("cross-entropy",),
}
"""The layers of the atlas by family, in reading order."""

NOT_FOUND: Mapping[str, str] = {
    "NaLaFormer attention": "arXiv:2506.21137: its kernel was found in words only, no formula",
    "Gated KalmaNet": "arXiv:2511.21016: solves a regression at every step; the delta rule is the approximation here",
}
"""Requested layers without a published formula, and what was found instead."""

Row = dict[str, Any]
_SECONDS = 120.0  # for the check of one layer, whose outcome the kept table records


def names() -> tuple[str, ...]:
    """Return the names of the layers, in reading order."""
    return tuple(name for group in GROUPS.values() for name in group)


@lru_cache(maxsize=64)
def load(name: str) -> Layer:
    """Return a layer of the atlas by its name; raises ``SpecError`` for a name without a file."""
    from derive.spec import load_spec

    return load_spec(FOLDER / f"{name.replace('-', '_')}.toml")


def source(layer: Layer) -> str:
    """Return the source of a layer of the atlas."""
    return layer.notes[0].removeprefix("Source: ")


def kept_rows() -> dict[str, Row]:
    """Return the rows of the kept table by name; none if there is no table."""
    if not TABLE.is_file():
        return {}
    return {row["name"]: row for row in json.loads(TABLE.read_text(encoding="utf-8"))["layers"]}


def rows(kept: Mapping[str, Row] | None = None) -> list[Row]:
    """Return one row for each layer: from the kept table if up to date, otherwise derived and checked anew."""
    from derive.export.summary import digest

    kept = kept_rows() if kept is None else kept
    found = []
    for name in names():
        row, layer = kept.get(name, {}), load(name)
        found.append(row if row.get("forward_map") == digest(layer) else _row(name, layer))
    return found


def _row(name: str, layer: Layer) -> Row:
    """Derive and check one layer."""
    from derive.check import checked
    from derive.export.summary import layer_row
    from derive.remedies import remedies
    from derive.update import effective_update

    statuses: dict[str, int] = {}
    for step in checked(effective_update(layer), _SECONDS).steps:
        status = step.verdict.status.value
        statuses[status] = statuses.get(status, 0) + 1
    row = {**layer_row(name, layer), "source": source(layer), "steps": dict(sorted(statuses.items()))}
    best = [] if row["maps"] else remedies(layer)
    return {**row, "best": [{"name": r.name, "says": r.says, "size": r.size} for r in best]}


def table_text(found: list[Row]) -> str:
    """Return the text of the kept table."""
    return json.dumps({"schema": SCHEMA, "layers": found}, indent=1) + "\n"
