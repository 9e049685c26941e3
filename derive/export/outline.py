"""Derivations as a sequence of blocks: what is said, in which order, before any format.

Steps keep their order, except that the definition of an intermediate comes before the first step that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Expr, IndexedBase

from derive.algebra.index import Index
from derive.export.blocks import Block, Code, Equation, Heading, Inline, Items, Math, Paragraph, Prose, Table, prose
from derive.export.letters import Hints, hints_from
from derive.export.matter import closing, opening
from derive.export.notation import latex
from derive.export.provenance import layer_claim, map_claim
from derive.forward_map import Definition, Layer
from derive.record import CancellingMap, Derivation, Status, Step

_SHAPES = {
    "isotropic": "the same for every unit, a multiple of the identity",
    "diagonal": "diagonal, but different from unit to unit",
    "full": "a full matrix over the units",
}


@dataclass(frozen=True)
class Notation:
    """How the expressions of one layer are printed: a letter for each axis length."""

    hints: Hints

    def __call__(self, expression: Expr, *beside: Expr) -> str:
        """Return the LaTeX of an expression; no bound index gets the name of a free one in what stands beside it."""
        return latex(expression, self.hints, beside)

    def math(self, expression: Expr) -> Math:
        """Return an expression as inline maths."""
        return Math(self(expression))


def notation_for(layer: Layer) -> Notation:
    """Return the notation of a layer: its own letters for its axes."""
    definitions = (layer.output, *layer.definitions)
    hints = hints_from(*(i for d in definitions for i in d.indices), *(d.expression for d in definitions))
    return Notation(hints)


def derivation_blocks(derivation: Derivation) -> list[Block]:
    """Return the blocks of one layer: forward map, steps, result, cancelling maps, and the maps that do not exist."""
    layer = derivation.layer
    notation = notation_for(layer)
    blocks: list[Block] = [Heading(1, (_title(layer.title),)), *_preamble(layer)]
    blocks += step_blocks(derivation.steps, notation)
    blocks += [Heading(2, ("Result",)), *_result(derivation, notation)]
    for found in derivation.solutions:
        blocks += map_blocks(found)
    for refusal in derivation.refusals:
        kind = "cancelling" if refusal.kind == "any" else refusal.kind
        blocks.append(Paragraph((f"There is no {kind} map: {refusal.reason}.",)))
    return blocks


def _title(title: str) -> str:
    return title[:1].upper() + title[1:]


def _preamble(layer: Layer) -> list[Block]:
    claim = layer_claim(layer.name)
    origin = f"Reconstructed from the paper: {claim}." if claim else "Ours: this derivation is not in the paper."
    blocks: list[Block] = [Paragraph((origin,)), Paragraph(_tensors(layer))]
    blocks += [Paragraph((_sentence(note),)) for note in layer.notes]
    return blocks


def _tensors(layer: Layer) -> Prose:
    """Say which tensors the layer has and how long their axes are."""
    mixed: list[Inline] = ["Inputs: "]
    mixed += _declared([(t.base, t.axes) for t in layer.inputs])
    mixed.append("; parameters: ")
    mixed += _declared([(t.base, t.axes) for t in layer.parameters])
    out = layer.output
    mixed += ["; output: ", *_declared([(out.base, tuple(i.size for i in out.indices))]), "."]
    return tuple(mixed)


def _declared(tensors: Sequence[tuple[IndexedBase, tuple[Expr, ...]]]) -> list[Inline]:
    mixed: list[Inline] = []
    for base, axes in tensors:
        shape = r" \times ".join(f"({latex(a)})" if a.is_Add else latex(a) for a in axes)
        mixed += [", ", Math(latex(base) + (rf" \in \mathbb{{R}}^{{{shape}}}" if axes else ""))]
    return mixed[1:] or ["none"]


def step_blocks(steps: Sequence[Step], notation: Notation | None = None) -> list[Block]:
    """Return each step as its rule and its equation, with the intermediates that it uses for the first time."""
    if notation is None:
        sides = [e for step in steps for e in (step.target, step.before, step.after)]
        notation = Notation(hints_from(*sides))
    return _Steps(steps, notation).blocks()


class _Steps:
    """The steps of one derivation or map on their way onto paper."""

    def __init__(self, steps: Sequence[Step], notation: Notation) -> None:
        self._steps = steps
        self._notation = notation
        self._own = {_base(step.target): step for step in steps if step.before == step.target}
        self._introduced: set[IndexedBase | None] = set()
        self._done: set[str] = set()
        self._blocks: list[Block] = []

    def blocks(self) -> list[Block]:
        for step in self._steps:
            self._emit(step)
        return self._blocks

    def _emit(self, step: Step) -> None:
        if step.id in self._done:
            return
        self._done.add(step.id)
        self._introduced.add(_base(step.target))
        unknown = self._unknown(step)
        for definition in unknown:
            if definition.base in self._own:
                self._emit(self._own[definition.base])
        self._blocks.append(Paragraph(step_prose(step), leads=True))
        self._blocks.append(step_equation(step, self._notation))
        self._where([d for d in unknown if d.base not in self._own])

    def _where(self, definitions: Sequence[Definition]) -> None:
        if definitions:
            self._blocks.append(Paragraph(("where",), leads=True))
        for definition in definitions:
            right = self._notation(definition.expression, definition.entry)
            self._blocks.append(Equation(None, self._notation(definition.entry), (right,)))

    def _unknown(self, step: Step) -> list[Definition]:
        """Return the intermediates that a step mentions, also through each other, and that are new here."""
        mentioned = set().union(*(_bases(e) for e in (step.target, step.before, step.after)))
        new = []
        for definition in reversed(step.scope):
            if definition.base in mentioned and definition.base not in self._introduced:
                self._introduced.add(definition.base)
                mentioned |= _bases(definition.expression)
                new.append(definition)
        return new[::-1]


def _base(target: Expr) -> IndexedBase | None:
    return target.base if isinstance(target, sympy.Indexed) else None


def _bases(expression: Expr) -> set[IndexedBase]:
    return {entry.base for entry in expression.atoms(sympy.Indexed)}


def _sentence(rule: str) -> str:
    text = rule[:1].upper() + rule[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def step_prose(step: Step) -> Prose:
    """Return a step's rule as a sentence, with the outcome of its check where it was checked."""
    verdict = step.verdict
    if verdict.status is Status.UNVERIFIED and verdict.method == "not checked yet":
        return (_sentence(step.rule),)
    return (_sentence(step.rule), f" [{verdict.status.value}]")


def step_equation(step: Step, notation: Notation) -> Equation:
    """Return ``target = before = after``, each side once."""
    sides = [notation(step.target)]
    for side in (notation(step.before, step.target), notation(step.after, step.target)):
        if side not in sides:
            sides.append(side)
    return Equation(step.id, sides[0], tuple(sides[1:]) or (sides[0],))


def _result(derivation: Derivation, notation: Notation) -> list[Block]:
    factor = derivation.self_factor
    size = "does not depend" if factor.parameter_free else "depends"
    entries = [
        prose(
            "Self factor {}: " + _SHAPES.get(factor.shape, factor.shape) + "; it " + size + " on the parameters.",
            notation.math(factor.expression),
        ),
        prose("Cross terms {}.", notation.math(derivation.cross_terms)),
        prose(_order(derivation.order_in_eta), Math(r"\eta")),
        _axes(derivation, notation),
    ]
    return [Items(tuple(entries))]


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
        mixed += [", ", Math(rf"{notation(index)} \in \{{0, \ldots, {latex(index.size - 1)}\}}")]
    return mixed[1:] or ["none"]


def map_blocks(found: CancellingMap) -> list[Block]:
    """Return the blocks of one cancelling map: properties, then steps."""
    notation = notation_for(found.mapped)
    claim = map_claim(found.layer.name, found.name)
    origin = f"Reconstructed from the paper: {claim}." if claim else "Ours: this map is not in the paper."
    blocks: list[Block] = [Heading(2, (_title(f"{found.name} map"),)), Paragraph((origin,))]
    blocks.append(Table((("property",), ("value",)), tuple(_properties(found, notation))))
    return [*blocks, *step_blocks(found.steps, notation)]


def _properties(found: CancellingMap, notation: Notation) -> list[tuple[Prose, Prose]]:
    """Return the computed properties of a map, one row each."""
    rows: list[tuple[str, Prose]] = [("kind", (found.kind,))]
    rows += [(f"scale of {name}", (notation.math(scale),)) for name, scale in found.scales]
    rows += [
        ("self factor", (notation.math(found.self_factor),)),
        ("residual", (notation.math(found.residual),)),
        ("default kappa", (notation.math(found.kappa_default),)),
        ("scale invariant", (_yes(found.scale_invariant),)),
        ("injective", (_yes(found.injective),)),
        ("singular at zero", (_yes(found.singular_at_zero),)),
        ("at zero", (Code(found.limit_zero),)),
        ("at infinity", (Code(found.limit_infinity),)),
        ("variance-preserving weight scale", (notation.math(found.weight_scale),)),
    ]
    if found.angle is not None:
        rows.append(("angle", (notation.math(found.angle),)))
    rows += [("assumes", (assumption,)) for assumption in found.assumptions]
    return [((name,), value) for name, value in rows]


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: "not decided"}[value]


def document_blocks(derivations: Sequence[Derivation]) -> list[Block]:
    """Return the blocks of a whole document about several layers."""
    blocks: list[Block] = [Heading(0, ("The affine divergence: derivations",)), *opening()]
    for derivation in derivations:
        blocks += derivation_blocks(derivation)
    return [*blocks, *closing(derivations)]


def equation_ids(blocks: Iterable[Block]) -> list[str]:
    """Return the ids of all equations in order."""
    return [block.id for block in blocks if isinstance(block, Equation) and block.id]
