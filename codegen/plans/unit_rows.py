"""The plan of rows of unit length: the L2 norm, which QK-norm applies to every query and key.

    derived   y = x/sqrt(q), q = sum x**2                 the layer ``l2-norm``
    printed   f = 1/sqrt(q), safe for any length; u = f x  backward: dx from u and f alone

This module proves that the scores of ``qk-norm>attention`` are products of such rows. The backward pass reads only the
output u and one number per row, f, so the input is not saved. ``f`` is a result with a derivative of its own, so that
second derivatives go through u and f.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from sympy import Expr, Indexed

from codegen.ir.program import (
    Contract,
    Instruction,
    Magnitude,
    Pointwise,
    Program,
    ProgramError,
    Value,
    gradient_name,
    tangent_name,
)
from codegen.lower.gathering import lower
from codegen.passes.ranges import range_safe
from codegen.passes.reassociate import gradients, tangent
from codegen.passes.scaled_input import Direction
from codegen.plans.digest import digest
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, map_entries, rename, tensor
from derive.forward_map import Layer
from derive.layers import layer

SCALE, UNIT = "f", "u"
_SCALE_COTANGENT, _MORE = "h", "dx_by_f"
_NEEDS_MORE = "the backward pass needs more than the output and one number a row"


@dataclass(frozen=True)
class UnitRows:
    """The programs of the map of ``x`` to ``u`` of unit length, with one number ``f`` per row.

    ``scale`` computes f from x; ``forward`` u from x and f; ``backward`` dx from the gradient with respect to u, and u
    and f; ``scale_backward`` the part of dx from the gradient with respect to f. ``tangent`` and ``scale_tangent``
    compute the tangents of u and f from the tangent of x, and u and f.
    """

    layer: Layer
    scale: Program
    forward: Program
    backward: Program
    scale_backward: Program
    tangent: Program
    scale_tangent: Program

    @property
    def digest(self) -> str:
        """The digest of the map."""
        return digest(self.layer)

    @property
    def whole(self) -> Program:
        """The forward map in one program: f and u from x."""
        whole = replace(self.scale, instructions=(*self.scale.instructions, *self.forward.instructions))
        return replace(whole, name=self.layer.name, outputs=(UNIT, SCALE))


@cache
def unit_rows() -> UnitRows:
    """Return the programs; raise ``ProgramError`` if QK-norm is another map, or its backward pass reads the input."""
    unit, scores = layer("l2-norm"), layer("qk-norm>attention")
    if not equal(_product_of_rows(unit, scores), _scores(scores)):
        raise ProgramError(f"{scores.name!r} is not the product of rows of {unit.name!r}, which its kernels compute")
    program = lower(unit)
    (kept,) = gradients(program, [t.name for t in unit.inputs]).saved
    program = _renamed(program, {kept: SCALE})
    whole = gradients(program, [t.name for t in unit.inputs])
    of_scale = program.restricted(f"{program.name}/scale", (SCALE,))
    by_scale = gradients(of_scale, [t.name for t in unit.inputs], (SCALE,))
    if whole.direction is None or by_scale.direction is None:
        raise ProgramError(f"{program.name!r}: {_NEEDS_MORE}")
    output = program.outputs[0]
    forward = program.restricted(program.name, program.outputs)
    safe = range_safe(program, SCALE)
    given = {"g": _SCALE_COTANGENT, gradient_name(unit.inputs[0].name): _MORE}
    slope = tangent(program, (SCALE,), whole.direction)
    return UnitRows(
        layer=unit,
        scale=_renamed(safe, {output: f"{output}_over_peak"}),
        forward=_of_scale(_renamed(forward, {output: UNIT}), program.values[SCALE]),
        backward=_of_unit(whole.program, whole.direction, program),
        scale_backward=_silent(_renamed(_of_unit(by_scale.program, by_scale.direction, program), given)),
        tangent=_renamed(_of_unit(slope, whole.direction, program), {tangent_name(output): tangent_name(UNIT)}),
        scale_tangent=_silent(_of_unit(tangent(of_scale, (SCALE,), whole.direction), whole.direction, program)),
    )


def _product_of_rows(unit: Layer, scores: Layer) -> Expr:
    """Return the products of the scores' queries and keys after applying ``unit`` to each."""
    total = next(iter(scores.output.expression.atoms(IndexedSum)))
    own = expand_definitions(unit.output.expression, unit.scope)
    (feature,) = unit.output.indices[1:]

    def _at_unit_length(entry: Indexed) -> Expr:
        *place, last = entry.indices
        moved = _of_length(rename(own, {feature: last}), last.size)
        return map_entries(moved, lambda e: entry.base[(*place, e.indices[-1])])

    factors = sorted(total.body.atoms(Indexed), key=str)
    assert len(factors) == 2
    return IndexedSum(_at_unit_length(factors[0]) * _at_unit_length(factors[1]), *total.bound)


def _of_length(expression: Expr, size: Expr) -> Expr:
    """Return an expression whose sums run over an axis of another length."""
    if isinstance(expression, IndexedSum):
        body, bound = expression.renamed()
        longer = {index: Index(index.name, size).fresh() for index in bound}
        return IndexedSum(rename(body, longer), *longer.values())
    if not expression.args or isinstance(expression, Indexed):
        return expression
    return expression.func(*(_of_length(a, size) if isinstance(a, Expr) else a for a in expression.args))


def _scores(scores: Layer) -> Expr:
    """Return the scores as a function of queries and keys."""
    total = next(iter(scores.output.expression.atoms(IndexedSum)))
    rows = {entry.base for entry in total.body.atoms(Indexed)}
    return expand_definitions(scores.output.expression, {b: d for b, d in scores.scope.items() if b not in rows})


def _of_scale(program: Program, scale: Value) -> Program:
    """Return a program that reads the scale as an input instead of computing it."""
    kept = tuple(i for i in program.instructions if i.target.name != scale.name)
    given = replace(program, inputs=(*program.inputs, scale), instructions=kept)
    return given.restricted(f"{program.name}/output", program.outputs)


def _of_unit(program: Program, direction: Direction, forward: Program) -> Program:
    """Return a program that reads the map's output instead of computing the scaled input, which is equal."""
    made = forward.producers[forward.outputs[0]]
    here = dict(zip(direction.value.indices, made.target.indices, strict=True))
    if not isinstance(made, Pointwise) or rename(direction.definition, here) != made.expression:
        raise ProgramError(f"{forward.name!r}: {_NEEDS_MORE}")
    kept = tuple(i for i in program.instructions if i.target.name != direction.value.name)
    given = (*program.inputs, direction.value)
    whole = _renamed(replace(program, inputs=given, instructions=kept), {direction.value.name: UNIT})
    return whole.restricted(whole.name, whole.outputs)


def _silent(program: Program) -> Program:
    """Return a program without equation names: no derivation has a step for it."""
    return replace(program, instructions=tuple(replace(i, equation="") for i in program.instructions))


def _renamed(program: Program, names: dict[str, str]) -> Program:
    """Return a program with its values renamed; raise ``ProgramError`` if two would get the same name."""

    def _entry(e: Indexed) -> Indexed:
        name = str(e.base.label)
        return tensor(names[name])[e.indices] if name in names else e

    def _value(v: Value) -> Value:
        return replace(v, name=names.get(v.name, v.name))

    def _instruction(i: Instruction) -> Instruction:
        if isinstance(i, Pointwise):
            return replace(i, target=_value(i.target), expression=map_entries(i.expression, _entry))
        if isinstance(i, Contract):
            return replace(i, target=_value(i.target), operands=tuple(map(_entry, i.operands)))
        assert isinstance(i, Magnitude)
        return replace(i, target=_value(i.target), operand=_entry(i.operand))

    return replace(
        program,
        inputs=tuple(map(_value, program.inputs)),
        instructions=tuple(map(_instruction, program.instructions)),
        outputs=tuple(names.get(name, name) for name in program.outputs),
    )
