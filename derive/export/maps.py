"""Cancelling maps as blocks: origin, computed properties, steps."""

from __future__ import annotations

from sympy import Expr

from derive.export.blocks import Block, Equation, Heading, Math, Paragraph, Prose, Table, sentence
from derive.export.claims import claim_blocks
from derive.export.limits import assumptions, limit_prose
from derive.export.linebreak import LINE_WIDTH
from derive.export.prose import inline
from derive.export.provenance import map_claim
from derive.export.steps import step_blocks
from derive.export.symbols import Notation, notation_for
from derive.export.terminal import ANSWERS
from derive.export.tokens import width
from derive.forward_map import Layer
from derive.record import CancellingMap

_CELL = 0.55 * LINE_WIDTH
_DECOMPOSITION = {
    "activation": "activation-like map: the length `r` becomes",
    "offset": "beside it the constant entry",
    "scale": "then a linear map and the scale",
}


def map_blocks(found: CancellingMap, printed: set[str] | None = None, of: Layer | None = None) -> list[Block]:
    """Return the blocks of one cancelling map of the layer ``of``; a map of one of its parts names the part.

    Steps with an id in ``printed`` are left out; the ids of the others are added to it.
    """
    page = () if of is None else (of, *of.parts)
    original, mapped = notation_for(found.layer, *page), notation_for(found.mapped, *page)
    notation = original.beside(mapped)
    heading = sentence(f"{found.name} map").rstrip(".")
    if of is not None and of.name != found.layer.name:
        heading += f" of {found.layer.name}"
    claim = map_claim(found.layer.name, found.name)
    origin = f"Reconstructed from the paper: {claim}." if claim else "Ours: this map is not in the paper."
    blocks: list[Block] = [Heading(2, (heading,)), Paragraph((origin,))]
    narrow, wide = _split(_formulas(found), notation)
    rows = [(("kind",), (found.kind,)), *narrow, *_facts(found, notation)]
    blocks += [Table((("property",), ("value",)), tuple(rows)), *wide]
    return [*blocks, *claim_blocks(found.claims, notation), *step_blocks(found.steps, notation, printed)]


def _formulas(found: CancellingMap) -> list[tuple[str, Expr]]:
    """Return the properties that are formulas, with their names."""
    scales = [(f"scale of `{name}`", scale) for name, scale in found.scales]
    formulas = [
        *scales,
        ("self factor", found.self_factor),
        ("residual", found.residual),
        ("default `kappa`", found.kappa_default),
        ("variance-preserving weight scale", found.weight_scale),
    ]
    if found.angle is not None:
        formulas.append(("angle `t`", found.angle))
    return [*formulas, *((_DECOMPOSITION.get(name, name), part) for name, part in found.decomposition)]


def _split(formulas: list[tuple[str, Expr]], notation: Notation) -> tuple[list[tuple[Prose, Prose]], list[Block]]:
    """Return the formulas that fit into the table as rows, and the others as equations."""
    narrow: list[tuple[Prose, Prose]] = []
    wide: list[Block] = []
    for name, expression in formulas:
        formula = notation(expression)
        if width(formula) > _CELL:
            wide.append(Equation(None, _label(inline(name)), (formula,)))
        else:
            narrow.append((inline(name), (Math(formula),)))
    return narrow, wide


def _label(words: Prose) -> str:
    """Return prose as the left side of an equation."""
    return "".join(part.latex if isinstance(part, Math) else rf"\text{{{part}}}" for part in words)


def _facts(found: CancellingMap, notation: Notation) -> list[tuple[Prose, Prose]]:
    """Return the properties that are described in words."""

    def fits(zero: Expr) -> bool:
        """Return whether a formula is narrow enough for a line of the table."""
        return width(notation(zero)) < _CELL - 30

    rows: list[tuple[Prose, Prose]] = [
        (
            (known.name.replace("_", " "),),
            (f"{ANSWERS[known.value]} ({known.basis}: ", *inline(known.reason, notation), ")"),
        )
        for known in found.properties
    ]
    rows += [
        (("at zero",), limit_prose(found.zero, found.energy.name, notation)),
        (("at infinity",), limit_prose(found.infinity, found.energy.name, notation)),
    ]
    return [*rows, *((("assumes",), inline(stated, notation)) for stated in assumptions(found, fits))]
