"""Compute gradients and tangents of rows with as few matrix products as possible.

``differentiate`` gives each cotangent a value of its own. This pass turns them back into indexed sums. Then, in order:
values that are not saved are replaced by their definitions, so that ``g.(W x)`` and the ``W^T g`` that dx needs appear
in one sum; the normal form moves factors that do not vary along a sum out of it; the scaled input replaces the input
(``scaled_input``); and ``lower.sums`` builds all results from shared contractions.

Saved are values with fewer axes than the result (one number per row). A derivative is written in terms of the value
itself if possible (``f' = -f^3/2`` for ``f = 1/sqrt(E + 1)``), so that one such value is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sympy import Expr, Indexed

from codegen.ir.program import (
    Magnitude,
    Peak,
    Placed,
    Pointwise,
    Program,
    Value,
    gradient_name,
    name_of,
    tangent_name,
)
from codegen.lower.sums import Emitter
from codegen.passes.differentiate import forward_mode, reverse
from codegen.passes.scaled_input import Direction, find_direction
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise


@dataclass(frozen=True)
class Backward:
    """A backward program, the forward values that it reads, and the scaled input that it computes, if any.

    The program's inputs are the output's cotangent ``g``, the forward inputs that it uses, and ``saved``; its outputs
    are named ``d<tensor>``.
    """

    program: Program
    saved: tuple[str, ...]
    direction: Direction | None


def gradients(program: Program, with_respect_to: Sequence[str], kept: tuple[str, ...] | None = None) -> Backward:
    """Return the program that computes the gradient of each named input from the cotangent of the one output.

    ``kept`` names the forward values that it may read; with None, they are chosen as the module docstring says.
    Equations are named ``<program>/backward-d<name>``. Raises ``ProgramError`` for a name that is not an input.
    """
    stepwise = reverse(program, with_respect_to, _intermediates(program))
    own = {name: program.values[name].indices for name in with_respect_to}
    entries = {name: stepwise.values[gradient_name(name)].at(indices) for name, indices in own.items()}
    wanted = {name: explicit_in(entry, stepwise, ()) for name, entry in entries.items()}
    saved = _saved(program, wanted) if kept is None else kept
    explicit = {name: normalise(explicit_in(e, program, saved)) for name, e in wanted.items()}
    return _emitted(program, stepwise.inputs[0], explicit, saved)


def tangent(program: Program, saved: tuple[str, ...], direction: Direction | None) -> Program:
    """Return the program that computes the tangent of the one output from the tangents of all inputs.

    Its inputs are the forward inputs, ``saved`` and a tangent ``<name>_t`` of each forward input; its equation is named
    ``<program>/tangent``.
    """
    stepwise = forward_mode(program, _intermediates(program))
    result = replace(program.values[program.outputs[0]], name=stepwise.outputs[0])
    explicit = normalise(explicit_in(explicit_in(result.entry, stepwise, ()), program, saved))
    replaced = direction.apply(explicit) if direction else None
    tangents = (Value(tangent_name(v.name), v.indices) for v in program.inputs)
    inputs = (*program.inputs, *(program.values[name] for name in saved), *tangents)
    emitter = Emitter({v.name: v for v in inputs})
    if direction and replaced is not None:
        emitter.assign(direction.value, direction.definition)
    emitter.demand(explicit if replaced is None else replaced)
    emitter.assign(result, explicit if replaced is None else replaced, f"{program.name}/tangent")
    whole = Program(program.name, inputs, program.scalars, tuple(emitter.instructions), (result.name,))
    return whole.restricted(f"{program.name}/tangent", whole.outputs)


def _intermediates(program: Program) -> tuple[str, ...]:
    return tuple(i.target.name for i in program.instructions)


def _saved(program: Program, gradients: dict[str, Expr]) -> tuple[str, ...]:
    """Return the narrow intermediates that the gradients use, in order, without those that follow from others.

    Narrow means fewer axes than the result.
    """
    axes = len(program.values[program.outputs[0]].indices)
    mentioned = {name_of(e) for expression in gradients.values() for e in expression.atoms(Indexed)}
    narrow = [i for i in program.instructions if i.target.name in mentioned and len(i.target.indices) < axes]
    kept = {i.target.name for i in narrow}
    for instruction in reversed(narrow):
        others = kept - {instruction.target.name}
        if isinstance(instruction, Pointwise) and {name_of(e) for e in instruction.reads} <= others:
            kept = others
    return tuple(i.target.name for i in narrow if i.target.name in kept)


def _emitted(program: Program, cotangent: Value, gradients: dict[str, Expr], saved: tuple[str, ...]) -> Backward:
    direction = find_direction(program, saved)
    replaced = direction.apply_all(gradients) if direction else None
    if replaced is None:
        direction, replaced = None, gradients
    inputs = (cotangent, *program.inputs, *(program.values[name] for name in saved))
    emitter = Emitter({v.name: v for v in inputs})
    if direction:
        emitter.assign(direction.value, direction.definition)
    for expression in replaced.values():
        emitter.demand(expression)
    for name, expression in replaced.items():
        target = replace(program.values[name], name=gradient_name(name))
        emitter.assign(target, expression, f"{program.name}/backward-{target.name}")
    outputs = tuple(gradient_name(name) for name in gradients)
    scalars = program.scalars
    whole = Program(f"{program.name}/backward", inputs, scalars, tuple(emitter.instructions), outputs)
    return Backward(whole.restricted(whole.name, outputs), saved, direction)


def explicit_in(expression: Expr, program: Program, saved: Sequence[str]) -> Expr:
    """Return the expression with every intermediate that is not saved replaced by its definition."""
    producers = program.producers

    def walk(part: Expr) -> Expr:
        """Return a part in terms of saved values and inputs."""
        if isinstance(part, Indexed):
            instruction = producers.get(name_of(part))
            if instruction is None or name_of(part) in saved:
                return part
            assert not isinstance(instruction, Magnitude | Peak | Placed)
            return walk(rename(instruction.meaning, dict(zip(instruction.target.indices, part.indices, strict=True))))
        if not part.args:
            return part
        if isinstance(part, IndexedSum):
            body, bound = part.renamed()
            return IndexedSum(walk(body), *bound)
        return part.func(*(walk(a) if isinstance(a, Expr) else a for a in part.args))

    return walk(expression)
