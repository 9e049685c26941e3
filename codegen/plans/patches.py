"""The plan of one cancelling map of a convolution: its programs, settings and digest.

    z = f*h + rest      the output is affine in its scale; h is the convolution and the rest of the scaled part
    u = x/top           the input in units of each image's longest patch, where the scale f is smallest
    z = f_u*h_u + rest  the same output: f_u = f*top, h_u = h/top

The scale is the one number per position that is saved for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr

from codegen.ir.program import Convolve, Instruction, Magnitude, Pointwise, Program, Value, entries, name_of
from codegen.lower.gathering import lower
from codegen.passes.differentiate import Rescaling, forward_mode, reverse
from codegen.passes.ranges import singular_at_zero
from codegen.plans.digest import digest
from codegen.plans.rows import lower_bound
from derive.algebra.normal import normalise
from derive.errors import UsageError
from derive.forward_map import BATCH, Definition, Layer
from derive.record import CancellingMap


@dataclass(frozen=True)
class PatchPlan:
    """Everything a target prints for one map of a convolution.

    ``scale`` computes the scale of each position from the input. ``forward`` computes the output from inputs,
    parameters and scale; ``forward_scaled`` uses the rescaled input instead. ``backward`` recomputes the convolution,
    ``backward_kept`` reads it as ``product``; ``backward_scaled`` and ``tangent`` use the rescaled input.
    """

    name: str
    kind: str
    layer: Layer
    scale_name: str
    product: str
    scale: Program
    forward: Program
    forward_scaled: Program
    backward: Program
    backward_kept: Program
    backward_scaled: Program
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


def patch_plan(solution: CancellingMap) -> PatchPlan:
    """Return the plan of a cancelling map of a convolution; raise ``UsageError`` for a map of another kind."""
    layer = solution.mapped
    scale = layer.definitions[-1].name
    separate, product = separated(layer, scale)
    program = _without_own_equation(lower(separate, convolutions=True), product)
    if not any(isinstance(i, Convolve) for i in program.instructions) or len(layer.inputs) != 1:
        raise UsageError(f"map {layer.name!r}: it is not a convolution of one input; use the plan of another family")
    rescaling = _rescaling(program)
    scaled = _rescaled(program, rescaling, scale, product)
    wanted = [v.name for v in program.inputs]
    return PatchPlan(
        name=solution.name,
        kind=solution.kind,
        layer=layer,
        scale_name=scale,
        product=product,
        scale=_scale(program, scale),
        forward=_given(program, scale),
        forward_scaled=_given(scaled, scale),
        backward=reverse(program, wanted, (scale,)),
        backward_kept=reverse(program, wanted, (scale, product)),
        backward_scaled=reverse(scaled, wanted, (scale,), rescaling),
        tangent=forward_mode(scaled, (scale,)),
        kappa=solution.kappa,
        kappa_default=solution.kappa_default,
        kappa_above=lower_bound(program, scale, solution.kappa),
        weight_deviation=solution.weight_scale,
        digest=digest(layer),
    )


def separated(layer: Layer, scale: str) -> tuple[Layer, str]:
    """Return the layer with the scaled part of its output as an intermediate value, and that value's name.

    Raises ``UsageError`` if the output is not affine in the scale.
    """
    definition = next(d for d in layer.definitions if d.name == scale)
    factor = definition.entry
    expression = sympy.expand(normalise(layer.output.expression))
    inner, rest = expression.coeff(factor, 1), expression.coeff(factor, 0)
    if inner == 0 or sympy.expand(inner * factor + rest - expression) != 0:
        raise UsageError(f"map {layer.name!r}: the output is not affine in the scale {scale}; no program exists for it")
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in (*layer.definitions, layer.output)}
    name = next(n for n in ("h", "product", "scaled_part") if n not in used)
    product = Definition(name, layer.output.indices, inner)
    changed = layer.with_output(factor * product.entry + rest)
    return replace(changed, definitions=(*layer.definitions, product)), name


def _without_own_equation(program: Program, name: str) -> Program:
    """Return the program without an equation for the product, which is not a definition of the derivation."""
    named = (replace(i, equation="") if i.target.name == name else i for i in program.instructions)
    return replace(program, instructions=tuple(named))


def _rescaling(program: Program) -> Rescaling:
    """Return the rescaling of the input by one number per image."""
    source = program.inputs[0]
    free = (n for n in ("u", "rescaled_input") if n not in program.values)
    return Rescaling(Value(next(free), source.indices), Value("top", (BATCH,)), source)


def _magnitude(program: Program, rescaling: Rescaling, scale: str) -> Magnitude:
    entry = program.values[scale].entry
    return Magnitude(rescaling.magnitude, entry, tuple(i for i in entry.indices if i != BATCH))


def _rescaled(program: Program, rescaling: Rescaling, scale: str, product: str) -> Program:
    """Return the program whose convolutions with parameters read the rescaled input; other sums do not change.

    The scaled part is computed in the same units, and the scale is multiplied by them first: in plain units the
    product may overflow, and the scale may be smaller than the smallest normal number.
    """
    source, value, unit = rescaling.source.name, rescaling.value, rescaling.magnitude.at((BATCH,))
    factor = Value(f"{scale}_{value.name}", program.values[scale].indices)
    renamed: dict[str, Value] = {}
    instructions: list[Instruction] = []
    for instruction in program.instructions:
        target = instruction.target
        if (
            isinstance(instruction, Convolve)
            and source in map(name_of, instruction.reads)
            and len(instruction.reads) > 1
        ):
            operands = tuple(value.at(o.indices) if name_of(o) == source else o for o in instruction.operands)
            renamed[target.name] = replace(target, name=f"{target.name}_{value.name}")
            instructions.append(replace(instruction, target=renamed[target.name], operands=operands))
            continue
        if isinstance(instruction, Pointwise) and target.name != scale:
            own = instruction.expression
            units = {e: unit * renamed[name_of(e)].at(e.indices) for e in entries(own) if name_of(e) in renamed}
            units |= {e: factor.at(e.indices) / unit for e in entries(own) if name_of(e) == scale}
            expression = own.xreplace(units)
            if target.name == product:
                renamed[product] = replace(target, name=f"{product}_{value.name}")
                expression = sympy.expand(expression / unit)
                others = [e for e in entries(own) if BATCH in e.indices and name_of(e) not in renamed]
                for entry in others:  # one value per position, so that each sum over samples is of a single product
                    own_units = Value(f"{name_of(entry)}_{value.name}", tuple(entry.indices))
                    instructions.append(Pointwise(own_units, entry / unit))
                    expression = expression.xreplace({entry: own_units.entry * unit})
            instructions.append(Pointwise(renamed.get(target.name, target), expression, instruction.equation))
            continue
        instructions.append(instruction)
    place = 1 + next(k for k, i in enumerate(instructions) if i.target.name == scale)
    definitions = (
        _magnitude(program, rescaling, scale),
        rescaling.definition,
        Pointwise(factor, program.values[scale].entry * unit),
    )
    return replace(program, instructions=(*instructions[:place], *definitions, *instructions[place:]))


def _scale(program: Program, scale: str) -> Program:
    """Return the program of the scale alone; a scale that is infinite at zero becomes zero there."""
    whole = program.restricted(f"{program.name}/scale", (scale,))
    producer = program.producers[scale]
    assert isinstance(producer, Pointwise)
    (energy,) = producer.reads
    if not singular_at_zero(producer.expression, energy):
        return whole
    safe = Value(f"{name_of(energy)}_or_inf", tuple(energy.indices))
    at_zero = sympy.Piecewise((sympy.oo, sympy.Eq(energy, 0)), (energy, True))
    last = replace(producer, expression=producer.expression.xreplace({energy: safe.entry}))
    return replace(whole, instructions=(*whole.instructions[:-1], Pointwise(safe, at_zero), last))


def _given(program: Program, scale: str) -> Program:
    """Return the output as a program of the inputs and the scale."""
    kept = tuple(i for i in program.instructions if i.target.name != scale)
    given = replace(program, inputs=(*program.inputs, program.values[scale]), instructions=kept)
    return given.restricted(f"{program.name}/output", program.outputs)
