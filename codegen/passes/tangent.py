"""The tangent program of a forward program: forward mode on the instructions.

    Contract   T = sum A B        T. = sum A. B + sum A B.
    Pointwise  T = F(a, b)        T. = F_a a. + F_b b.

It reads one number a row and the scaled input, as the program of ``adjoint`` does.
"""

from __future__ import annotations

import sympy
from sympy import Expr

from codegen.ir.program import Magnitude, Peak, Program, Value, name_of
from codegen.lower.sums import Emitter
from codegen.passes.differentials import explicit_in, partials, summed
from codegen.passes.scaled_input import Direction
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise


def tangent_name(name: str) -> str:
    """Return the name of the tangent of a value: ``x_t`` for ``x``."""
    return f"{name}_t"


def tangent(program: Program, saved: tuple[str, ...], direction: Direction | None) -> Program:
    """Return the program that computes the tangent of the one output from the tangents of all inputs.

    Its inputs are the forward inputs, ``saved`` and a tangent ``<name>_t`` of each forward input.
    """
    output = program.values[program.outputs[0]]
    tangents = {v.name: Value(tangent_name(v.name), v.indices) for v in program.inputs}
    total: dict[str, Expr] = {name: value.entry for name, value in tangents.items()}
    for instruction in program.instructions:
        if not isinstance(instruction, Magnitude | Peak):
            terms = [IndexedSum(d * _at(total, program, e), *summed(instruction)) for e, d in partials(instruction)]
            total[instruction.target.name] = sympy.Add(*terms)
    explicit = normalise(explicit_in(total[output.name], program, saved))
    replaced = direction.apply(explicit) if direction else None
    inputs = (*program.inputs, *(program.values[name] for name in saved), *tangents.values())
    emitter = Emitter({v.name: v for v in inputs})
    if direction and replaced is not None:
        emitter.assign(direction.value, direction.definition)
    result = Value(tangent_name(output.name), output.indices)
    emitter.demand(explicit if replaced is None else replaced)
    emitter.assign(result, explicit if replaced is None else replaced, f"{program.name}/tangent")
    whole = Program(program.name, inputs, program.scalars, tuple(emitter.instructions), (result.name,))
    return whole.restricted(f"{program.name}/tangent", whole.outputs)


def _at(total: dict[str, Expr], program: Program, entry: sympy.Indexed) -> Expr:
    """Return a value's tangent at the indices of an entry of it, capture-free."""
    value = program.values[name_of(entry)]
    fresh = {old: old.fresh() for old in value.indices}
    moved = rename(total[value.name], fresh)
    return rename(moved, dict(zip(fresh.values(), entry.indices, strict=True)))
