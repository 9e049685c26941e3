"""Derivations as a sequence of blocks: content and order, independent of the format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, IndexedBase

from derive.algebra.index import Index
from derive.export.blocks import Block, Code, Equation, Heading, Inline, Items, Math, Paragraph, Prose, prose, sentence
from derive.export.claims import claim_blocks
from derive.export.escape import label
from derive.export.front_matter import closing, opening
from derive.export.functions import named_functions
from derive.export.maps import map_blocks
from derive.export.prose import inline
from derive.export.provenance import layer_claim
from derive.export.steps import step_blocks
from derive.export.symbols import Notation, notation_for
from derive.forward_map import Layer
from derive.record import Derivation

_SHAPES = {
    "isotropic": "the same for every unit, a multiple of the identity",
    "diagonal": "diagonal, but different from unit to unit",
    "full": "a full matrix over the units",
}


@dataclass(frozen=True)
class Chapter:
    """A layer in a document: its derivation, and its derivations under other update rules."""

    derivation: Derivation
    under_rules: tuple[Derivation, ...] = ()


def chapter_blocks(chapter: Chapter) -> list[Block]:
    """Return the blocks of one chapter."""
    blocks = derivation_blocks(chapter.derivation)
    layer = chapter.derivation.layer
    notation = notation_for(layer, *layer.parts)
    printed = {step.id for step in chapter.derivation.steps}
    for other in chapter.under_rules:
        blocks += [Heading(2, (f"Under the rule {other.rule}",)), Paragraph(("Ours: not in the paper.",))]
        blocks += [*step_blocks(other.steps, notation, printed), *_result(other, notation)]
    return blocks


def derivation_blocks(derivation: Derivation) -> list[Block]:
    """Return the blocks of one layer: forward map, steps, result, cancelling maps, and the maps that do not exist."""
    layer = derivation.layer
    notation = notation_for(layer, *layer.parts)
    blocks: list[Block] = [Heading(1, (layer.title[:1].upper() + layer.title[1:],)), *_preamble(layer, notation)]
    printed: set[str] = set()
    blocks += step_blocks(derivation.steps, notation, printed)
    blocks += [Heading(2, ("Result",)), *_result(derivation, notation)]
    for found in derivation.solutions:
        blocks += map_blocks(found, printed, layer)
    for refusal in derivation.refusals:
        kind = "cancelling" if refusal.kind == "any" else refusal.kind
        blocks.append(Paragraph(inline(f"There is no {kind} map: {refusal.reason}.", notation)))
    return blocks


def _preamble(layer: Layer, notation: Notation) -> list[Block]:
    claim = layer_claim(layer.name)
    origin = f"Reconstructed from the paper: {claim}." if claim else "Ours: this derivation is not in the paper."
    blocks: list[Block] = [Paragraph((origin,)), Paragraph(_tensors(layer, notation))]
    if notation.aliases:
        blocks.append(Paragraph(_settings(notation.aliases)))
    if functions := named_functions(layer):
        blocks.append(Paragraph(functions))
    blocks += [Paragraph((sentence(note),)) for note in layer.notes]
    return blocks


def _settings(aliases: Mapping[str, str]) -> Prose:
    mixed: list[Inline] = []
    for name, symbol in aliases.items():
        mixed += [", ", Math(symbol), " for ", Code(name)]
    return ("In the formulas below: ", *mixed[1:], ".")


def _tensors(layer: Layer, notation: Notation) -> Prose:
    """Return the layer's tensors and the lengths of their axes."""
    mixed: list[Inline] = ["Inputs: "]
    mixed += _declared([(t.base, t.axes) for t in layer.inputs], notation)
    mixed.append("; parameters: ")
    mixed += _declared([(t.base, t.axes) for t in layer.parameters], notation)
    out = layer.output
    mixed += ["; output: ", *_declared([(out.base, tuple(i.size for i in out.indices))], notation), "."]
    return tuple(mixed)


def _declared(tensors: Sequence[tuple[IndexedBase, tuple[Expr, ...]]], notation: Notation) -> list[Inline]:
    mixed: list[Inline] = []
    for base, axes in tensors:
        shape = r" \times ".join(f"({notation(a)})" if a.is_Add else notation(a) for a in axes)
        mixed += [", ", Math(notation(base) + (rf" \in \mathbb{{R}}^{{{shape}}}" if axes else ""))]
    return mixed[1:] or ["none"]


def _result(derivation: Derivation, notation: Notation) -> list[Block]:
    factor = derivation.self_factor
    size = "does not depend" if factor.parameter_free else "depends"
    shape = f"The self factor is {_SHAPES.get(factor.shape, factor.shape)}; it {size} on the parameters:"
    entries = (prose(_order(derivation.order_in_eta), Math(r"\eta")), _axes(derivation, notation))
    return [
        Paragraph((shape,), leads=True),
        Equation(None, r"\text{self factor}", (notation(factor.expression),)),
        Paragraph(("The effect of one sample's gradient on another sample:",), leads=True),
        Equation(None, r"\text{cross terms}", (notation(derivation.cross_terms),)),
        Items(entries),
        *claim_blocks(derivation.claims, notation),
    ]


def _order(order: int | None) -> str:
    if order == 1:
        return "The activation moves by exactly this, for any {}."
    higher = "in all powers" if order is None else f"up to the power {order}"
    return f"The activation moves by this to first order; higher orders remain, {higher} of {{}}."


def _axes(derivation: Derivation, notation: Notation) -> Prose:
    samples, units = (_listed(indices, notation) for indices in (derivation.samples, derivation.units))
    return ("Samples: ", *samples, "; units: ", *units, ".")


def _listed(indices: Iterable[Index], notation: Notation) -> list[Inline]:
    mixed: list[Inline] = []
    for index in indices:
        mixed += [", ", Math(rf"{notation(index)} \in \{{0, \ldots, {notation(index.size - 1)}\}}")]
    return mixed[1:] or ["none"]


def document_blocks(items: Sequence[Derivation | Chapter]) -> list[Block]:
    """Return the blocks of a whole document about several layers."""
    chapters = [item if isinstance(item, Chapter) else Chapter(item) for item in items]
    title = Heading(0, ("The affine divergence: derivations",))
    return [title, *opening(), *chapters_blocks(chapters), *closing([chapter.derivation for chapter in chapters])]


def chapters_blocks(chapters: Sequence[Chapter]) -> list[Block]:
    """Return the blocks of the chapters of one document, in which no equation id occurs twice."""
    blocks: list[Block] = []
    taken: set[str] = set()
    for number, chapter in enumerate(chapters, 1):
        own = chapter_blocks(chapter)
        if taken & set(map(label, equation_ids(own))):  # an earlier chapter has a layer of that name
            own = [replace(b, id=f"{number}:{b.id}") if isinstance(b, Equation) and b.id else b for b in own]
        taken |= set(map(label, equation_ids(own)))
        blocks += own
    return blocks


def equation_ids(blocks: Iterable[Block]) -> list[str]:
    """Return the ids of all equations in order."""
    return [block.id for block in blocks if isinstance(block, Equation) and block.id]
