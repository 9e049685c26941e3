"""The plan of one cancelling map of rows, independent of the target: its programs, settings and digest.

A plan exists for maps of the affine family: one input, one weight matrix, optionally a bias, and one scale per row that
is a function of the row's squared length. ``plan`` raises for any other map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Dummy, Expr

from codegen.ir.program import Pointwise, Program, Value, tangent_name
from codegen.lower.gathering import lower
from codegen.lower.sums import Emitter
from codegen.passes.ranges import range_safe
from codegen.passes.reassociate import Backward, gradients, tangent
from codegen.passes.scaled_input import Direction, find_direction
from codegen.plans.digest import digest
from codegen.plans.initialise import weight_deviation
from derive.algebra.differentiate import expand_definitions
from derive.algebra.normal import normalise
from derive.errors import UsageError
from derive.forward_map import Layer
from derive.record import CancellingMap


@dataclass(frozen=True)
class Plan:
    """Everything a target prints for one map.

    ``scale`` computes the row scale from an input of any length; ``plain_scale`` is a sum of squares and a function of
    it, valid if the sum is in range and positive. ``forward`` and ``forward_scaled`` compute the output from inputs,
    parameters and scale: the first scales the product (cheapest), the second the input (for types whose product could
    overflow). ``kappa_above`` is the bound that kappa must exceed; ``weight_deviation`` is the variance-preserving
    standard deviation of the weight.
    """

    name: str
    kind: str
    layer: Layer
    scale: Program
    plain_scale: Program
    forward: Program
    forward_scaled: Program
    backward: Backward
    tangent: Program
    kappa: Expr
    kappa_default: Expr
    kappa_above: Expr
    weight_deviation: Expr
    digest: str

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs and parameters of the map, in order."""
        return tuple(t.name for t in (*self.layer.inputs, *self.layer.parameters))

    @property
    def saved_names(self) -> tuple[str, ...]:
        """The inputs and parameters that the backward and tangent programs read, in order."""
        read = {v.name for v in (*self.backward.program.inputs, *self.tangent.inputs)}
        return tuple(name for name in self.input_names if name in read)

    @property
    def tangent_names(self) -> tuple[str, ...]:
        """The tangents of the inputs and parameters, in order."""
        return tuple(tangent_name(name) for name in self.input_names)

    @property
    def scale_name(self) -> str:
        """The name of the row scale."""
        return self.scale.outputs[0]


def plan(solution: CancellingMap) -> Plan:
    """Return the plan of a cancelling map; raise ``UsageError`` for a map outside the affine family."""
    layer = solution.mapped
    if len(layer.inputs) != 1 or len(layer.scalars) != 1:
        raise UsageError(f"map {layer.name!r}: the plan of rows needs one input and the one setting kappa")
    program = lower(layer)
    backward = gradients(program, [v.name for v in program.inputs])
    direction = backward.direction or find_direction(program, backward.saved)
    if len(backward.saved) != 1 or direction is None:
        raise UsageError(
            f"map {layer.name!r}: the plan of rows needs one scale per row, a function of the row's squared length"
        )
    scale = backward.saved[0]
    return Plan(
        name=solution.name,
        kind=solution.kind,
        layer=layer,
        scale=range_safe(program, scale),
        plain_scale=program.restricted(f"{program.name}/plain-scale", (scale,)),
        forward=_output_from(program, scale),
        forward_scaled=_scaled_input(program, layer, direction),
        backward=backward,
        tangent=tangent(program, backward.saved, direction),
        kappa=solution.kappa,
        kappa_default=solution.kappa_default,
        kappa_above=lower_bound(program, scale, solution.kappa),
        weight_deviation=weight_deviation(layer),
        digest=digest(layer),
    )


def _output_from(program: Program, scale: str) -> Program:
    """Return the output as a program of the inputs and the scale."""
    scale_value = program.values[scale]
    kept = tuple(i for i in program.instructions if i.target.name != scale)
    given = replace(program, inputs=(*program.inputs, scale_value), instructions=kept)
    return given.restricted(f"{program.name}/output", program.outputs)


def _scaled_input(program: Program, layer: Layer, direction: Direction) -> Program:
    """Return the output as a program that scales the input before the matrix product."""
    others = {base: d for base, d in layer.scope.items() if d.name != direction.scale.name}
    expression = direction.apply(normalise(expand_definitions(layer.output.expression, others)))
    if expression is None:
        return _output_from(program, direction.scale.name)
    inputs = (*program.inputs, program.values[direction.scale.name])
    emitter = Emitter({v.name: v for v in inputs})
    emitter.assign(direction.value, direction.definition)
    emitter.assign(Value(layer.output.name, layer.output.indices), expression, f"{layer.name}/forward")
    whole = Program(program.name, inputs, program.scalars, tuple(emitter.instructions), program.outputs)
    return whole.restricted(f"{program.name}/output-scaled-input", program.outputs)


def lower_bound(program: Program, scale: str, kappa: Expr) -> Expr:
    """Return the bound that kappa must exceed for the squared scale to be positive."""
    producer = program.producers[scale]
    assert isinstance(producer, Pointwise)
    unknown = Dummy("kappa", real=True)
    here = {e: Dummy("E", positive=True) for e in producer.reads}
    squared = (producer.expression**2).xreplace({**here, kappa: unknown})
    roots = sympy.solve(sympy.numer(sympy.together(squared)), unknown)
    if len(roots) != 1 or not roots[0].is_number:
        raise UsageError(
            f"map {program.name!r}: the kappa for which {producer.expression} is real are not all those above a bound"
        )
    return roots[0]
