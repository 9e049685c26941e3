"""The atlas as text: a list for a terminal, and one page with every layer's forward map, self factor and remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from derive.atlas import GROUPS, NOT_FOUND, load
from derive.export.blocks import Block, Code, Equation, Heading, Items, Paragraph, Table, prose
from derive.export.functions import named_functions
from derive.export.prose import inline
from derive.export.symbols import notation_for
from derive.export.terminal import line_width, words
from derive.optimisers import __doc__ as optimisers

Row = Mapping[str, Any]
_SHAPES = {"isotropic": "the same for every unit", "diagonal": "different for every unit", "full": "mixes units"}


def atlas_lines(rows: Iterable[Row]) -> list[str]:
    """Return the atlas for a terminal: name, title, self factor, the maps that cancel it or why none does, source."""
    known = {row["name"]: row for row in rows}
    lines: list[str] = []
    for group, members in GROUPS.items():
        lines += [group, ""]
        for name in members:
            row = known[name]
            lines += [f"  {name}: {row['title']}", *words(_says(row), "      "), *words(row["source"], "      "), ""]
    lines += ["Update rules: affdiv derive LAYER --rule NAME", ""]
    lines += [f"  {line}"[: line_width()] for line in rule_lines()]
    lines += ["", "Not found", *(line for found in _missing() for line in words(found, "  "))]
    return lines


def rule_lines() -> list[str]:
    """Return the table of optimisers in the docstring of ``derive.optimisers``."""
    found = re.findall(r"^    (\S.*)$", optimisers or "", re.MULTILINE)
    return [str(line) for line in found]


def _missing() -> list[str]:
    return [f"{name}: {why}" for name, why in NOT_FOUND.items()]


def _says(row: Row) -> str:
    factor = row["self_factor"]
    depends = "does not depend on the parameters" if factor["parameter_free"] else "depends on the parameters"
    text = factor["text"] if len(factor["text"]) <= line_width() else f"{factor['text'][: line_width() - 4]} ..."
    return f"self factor {_SHAPES[factor['shape']]}, {depends}: {text}; {_remedy(row)}"


def _remedy(row: Row) -> str:
    maps = ", ".join(found["name"] for found in row["maps"])
    reasons = "; ".join(refusal["reason"] for refusal in row["refusals"])
    return f"cancelled by {maps}" if maps else f"no map cancels it: {reasons}{_closest(row)}"


def _closest(row: Row) -> str:
    """Return what comes closest without solving over units, and how far the layer itself is from the ideal."""
    sizes = {found["name"]: found["size"] for found in row["best"] if found["size"] is not None}
    mean, nothing = sizes.get("divide-mean"), sizes.get("nothing")
    if mean is None or nothing is None:
        return ""
    return (
        f"; dividing each sample's gradient by the mean over units leaves {mean:.2f} of it, doing nothing {nothing:.2f}"
    )


def atlas_blocks(rows: Iterable[Row]) -> list[Block]:
    """Return the atlas as the blocks of one page."""
    known = {row["name"]: row for row in rows}
    lead = (
        "Layers of the literature, each from a layer file with its source. Every formula below a forward map is derived"
        " from it; every step was checked by independent evaluation, and the kernels are compared with automatic "
        "differentiation in float64 by the project's tests."
    )
    blocks: list[Block] = [Heading(0, ("An atlas of effective updates",)), Paragraph((lead,)), _overview(known)]
    for group, members in GROUPS.items():
        blocks.append(Heading(1, (group,)))
        for name in members:
            blocks += entry_blocks(known[name])
    blocks += [Heading(1, ("Update rules",)), Items(tuple((Code(line),) for line in rule_lines()))]
    blocks += [Heading(1, ("Not found",)), Items(tuple((line,) for line in _missing()))]
    return blocks


def _overview(known: Mapping[str, Row]) -> Table:
    header = (("layer",), ("self factor",), ("of parameters",), ("cancelled by",))
    lines = []
    for row in known.values():
        factor = row["self_factor"]
        maps = ", ".join(found["name"] for found in row["maps"]) or "nothing"
        free = "no" if factor["parameter_free"] else "yes"
        lines.append(((row["title"],), (_SHAPES[factor["shape"]],), (free,), (maps,)))
    return Table(header, tuple(lines))


def entry_blocks(row: Row) -> list[Block]:
    """Return the part of the page about one layer: source, forward map, self factor, and what cancels it."""
    layer = load(row["name"])
    notation = notation_for(layer)
    steps = ", ".join(f"{count} {status}" for status, count in row["steps"].items())
    blocks: list[Block] = [
        Heading(2, (row["title"],)),
        Paragraph(prose("{}: {}.", Code(f"affdiv derive {row['name']}"), row["source"].rstrip("."))),
        *(Paragraph((note,)) for note in layer.notes[1:]),
    ]
    if functions := named_functions(layer):
        blocks.append(Paragraph(functions))
    for definition in (*layer.definitions, layer.output):
        blocks.append(Equation(None, notation(definition.entry), (notation(definition.expression),)))
    factor = row["self_factor"]
    blocks += [
        Paragraph((f"Self factor, {_SHAPES[factor['shape']]}:",), leads=True),
        Equation(None, "K_{s s}", (factor["latex"],)),
        Paragraph(inline(f"{_remedy(row)[:1].upper()}{_remedy(row)[1:]}.", notation)),
        Paragraph((f"Steps of the derivation: {steps}.",)),
    ]
    return blocks
