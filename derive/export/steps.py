"""Steps as blocks: the rule as a sentence, the equation with its id, and the intermediates that it needs.

Steps keep their order, except that the definition of an intermediate comes before the first step that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, IndexedBase

from derive.export.blocks import Block, Equation, Paragraph, Prose, sentence
from derive.export.letters import hints_from
from derive.export.prose import inline
from derive.export.symbols import Notation
from derive.forward_map import Definition
from derive.record import Status, Step


def step_blocks(
    steps: Sequence[Step], notation: Notation | None = None, printed: set[str] | None = None
) -> list[Block]:
    """Return each step as its rule and its equation, with the intermediates that it uses for the first time.

    Steps with an id in ``printed`` are left out; the ids of the others are added to it.
    """
    if notation is None:
        sides = [e for step in steps for e in (step.target, step.before, step.after)]
        notation = Notation(hints_from(*sides))
    return _Steps(steps, notation, set() if printed is None else printed).blocks()


class _Steps:
    """The steps of one derivation or map while they are printed."""

    def __init__(self, steps: Sequence[Step], notation: Notation, printed: set[str]) -> None:
        self._steps = steps
        self._notation = notation
        self._own = {_base(step.target): step for step in steps if step.before == step.target}
        self._introduced: set[IndexedBase | None] = set()
        self._done = printed
        self._blocks: list[Block] = []

    def blocks(self) -> list[Block]:
        """Return the blocks of all steps, each after the steps that it depends on."""
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
        self._blocks.append(Paragraph(step_prose(step, self._notation), leads=True))
        self._blocks.append(step_equation(step, self._notation))
        self._where([d for d in unknown if d.base not in self._own])

    def _where(self, definitions: Sequence[Definition]) -> None:
        if definitions:
            self._blocks.append(Paragraph(("where",), leads=True))
        for definition in definitions:
            right = self._notation(definition.expression, definition.entry)
            self._blocks.append(Equation(None, self._notation(definition.entry), (right,)))

    def _unknown(self, step: Step) -> list[Definition]:
        """Return the intermediates that a step mentions, directly or through others, and that are new here."""
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


def step_prose(step: Step, notation: Notation) -> Prose:
    """Return a step's rule as a sentence, with the outcome of its check if it was checked."""
    verdict = step.verdict
    if verdict.status is Status.UNVERIFIED and verdict.method == "not checked yet":
        return inline(sentence(step.rule), notation)
    return (*inline(sentence(step.rule), notation), f" [{verdict.status.value}]")


def step_equation(step: Step, notation: Notation) -> Equation:
    """Return ``target = before = after``, each side once."""
    sides = list(dict.fromkeys(notation.sides(step.target, step.before, step.after)))
    return Equation(step.id, sides[0], tuple(sides[1:]) or (sides[0],))
