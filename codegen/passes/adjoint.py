"""The backward program of a forward program: reverse mode on the instructions, derivatives of scalars by SymPy.

    Contract   T = sum A B        dA += sum dT B      over every index that A lacks
    Pointwise  T = F(a, b)        da += sum dT F_a    over every index that a lacks

Cotangents stay indexed sums until the end. Then, in order: values that are not saved give way to their definitions, so
that ``g.(W x)`` and the ``W^T g`` that dx needs meet in one sum; the normal form pulls out of every sum what does not
vary along it; the scaled input takes the place of the input (``scaled_input``); and ``lower.sums`` builds all gradients
from shared contractions.

What is saved: values with fewer axes than the result (one number a row). A derivative is written through the value
itself where that is possible (``f' = -f^3/2`` for ``f = 1/sqrt(E + 1)``), so that one such value is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, Indexed

from codegen.ir.program import Magnitude, Peak, Pointwise, Program, ProgramError, Value, name_of
from codegen.lower.sums import Emitter
from codegen.passes.differentials import explicit_in, partials, summed
from codegen.passes.scaled_input import Direction, find_direction
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise


@dataclass(frozen=True)
class Backward:
    """A backward program, the forward values that it reads, and the scaled input it computes, if any.

    The program's inputs are the output's cotangent ``g``, the forward inputs that it uses, and ``saved``; its outputs
    are named ``d`` and the name of the tensor.
    """

    program: Program
    saved: tuple[str, ...]
    direction: Direction | None


def adjoint(program: Program, with_respect_to: Sequence[str], kept: tuple[str, ...] | None = None) -> Backward:
    """Return the program that computes the gradient of each named input from the cotangent of the one output.

    ``kept`` names the forward values that it may read; None has them chosen, as the head of this file says.
    Equations are named ``<program>/backward-d<name>``. Raise ``ProgramError`` for a name that is not an input.
    """
    for name in with_respect_to:
        if name not in {v.name for v in program.inputs}:
            raise ProgramError(f"program {program.name!r} has no input {name!r} to differentiate with respect to")
    cotangent = _cotangent(program)
    gradients = _reverse(program, cotangent)
    wanted = {name: gradients.get(name, sympy.S.Zero) for name in with_respect_to}
    saved = _saved(program, wanted) if kept is None else kept
    explicit = {name: normalise(explicit_in(e, program, saved)) for name, e in wanted.items()}
    return _emitted(program, cotangent, explicit, saved)


def gradient_name(name: str) -> str:
    """Return the name of the gradient with respect to an input: ``dx`` for ``x``."""
    return f"d{name}"


def _cotangent(program: Program) -> Value:
    output = program.values[program.outputs[0]]
    name = next(n for n in ("g", "g_out", "cotangent") if n not in program.values)
    return Value(name, output.indices)


def _reverse(program: Program, cotangent: Value) -> dict[str, Expr]:
    """Return, for every value, the gradient with respect to its entry at the value's own indices."""
    total: dict[str, Expr] = {program.outputs[0]: cotangent.entry}
    for instruction in reversed(program.instructions):
        incoming = total.get(instruction.target.name, sympy.S.Zero)
        if incoming == 0 or isinstance(instruction, Magnitude | Peak):
            continue
        for entry, factor in partials(instruction):
            value = program.values[name_of(entry)]
            indices = {i for i in (*instruction.target.indices, *summed(instruction)) if i not in entry.indices}
            term = IndexedSum(incoming * factor, *sorted(indices, key=Index.sort_key))
            # Fresh names first: an entry's indices may be another value's own indices in a different order.
            own = {old: new.fresh() for old, new in zip(entry.indices, value.indices, strict=True)}
            back = dict(zip(own.values(), value.indices, strict=True))
            moved = rename(rename(term, own), back)
            total[value.name] = total.get(value.name, sympy.S.Zero) + moved
    return total


def _saved(program: Program, gradients: dict[str, Expr]) -> tuple[str, ...]:
    """Return the narrow intermediates that the gradients mention, in order, less those that follow from the others.

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
