"""The plain layer, without a map: its programs, and the program of its self factor.

The plain layer is the baseline of the corrected ones, and the only class if no map cancels the divergence. Its self
factor is one number per sample if it is isotropic, one per unit if it is diagonal, else a matrix over units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy

from codegen.ir.program import Program
from codegen.lower.gathering import lower
from codegen.lower.safe_names import local_names, with_names
from codegen.passes.accumulation import Types, choose_types
from codegen.plans.digest import digest
from codegen.plans.layers import LayerPlan, offsets, plan_of
from derive.forward_map import Definition, Layer
from derive.record import Derivation
from derive.update import effective_update

PLAIN = "plain"


@dataclass(frozen=True)
class SelfFactorPlan:
    """The self factor of a layer as a program; for ``shape`` see ``derive.record.SelfFactor``."""

    layer: Layer
    program: Program
    types: Types
    names: dict[str, str]
    shape: str
    digest: str


def plain_plan(layer: Layer) -> LayerPlan:
    """Return the plan of the layer itself; raise ``UsageError`` for names that code cannot use."""
    return plan_of(layer, PLAIN, PLAIN, offsets(layer), energy=None)


def self_factor_plan(layer: Layer) -> SelfFactorPlan:
    """Return the program of the layer's self factor; the result has the sample axes, then those of the units."""
    derivation = effective_update(layer)
    known = _as_layer(derivation.layer, derivation)  # includes the derivatives that a long derivation names
    names = local_names(known)
    program = _as_derived(lower(with_names(known, names)), layer.name)
    real = [names[t.name] for t in layer.inputs if t.values is None]
    types = choose_types(program, real, len(known.output.indices))
    return SelfFactorPlan(known, program, types, names, derivation.self_factor.shape, digest(known))


@dataclass(frozen=True)
class DiagonalPlan:
    """The diagonal of a layer's self factor as a program: the sample axes, then ``units`` axes if units differ."""

    derivation: Derivation
    program: Program
    names: dict[str, str]
    units: int


def self_factor_diagonal(layer: Layer) -> DiagonalPlan:
    """Return the program of the self factor's diagonal, whose size grows only linearly with the number of units."""
    derivation = effective_update(layer)
    factor, own = derivation.self_factor, derivation.units
    same = factor.shape == "isotropic"
    entry = sympy.sympify(factor.expression).xreplace({i.primed(): i for i in own})
    output = Definition("self_factor_diagonal", (*derivation.samples, *(() if same else own)), entry)
    known = replace(derivation.layer, name=f"{layer.name}/self-factor", output=output)
    known = replace(known, definitions=_read(known, output))
    names = local_names(known)
    return DiagonalPlan(derivation, lower(with_names(known, names)), names, 0 if same else len(own))


def _as_derived(program: Program, layer: str) -> Program:
    """Return the program with its equations named as in the derivation."""
    factor = f"{layer}/self-factor"
    known = {f"{factor}/forward": factor}
    named = (
        replace(i, equation=known.get(i.equation, i.equation.replace(f"{factor}/define", f"{layer}/define")))
        for i in program.instructions
    )
    return replace(program, instructions=tuple(named))


def _as_layer(layer: Layer, derivation: Derivation) -> Layer:
    """Return the layer with its self factor as output, and only the definitions that it reads."""
    factor = derivation.self_factor
    indices = {
        "isotropic": derivation.samples,
        "diagonal": (*derivation.samples, *derivation.units),
        "full": (*derivation.samples, *derivation.units, *(i.primed() for i in derivation.units)),
    }[factor.shape]
    taken = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in layer.definitions}
    name = next(n for n in ("K", "K_ss", "self_factor_value") if n not in taken)
    output = Definition(name, indices, sympy.sympify(factor.expression))
    return replace(layer, name=f"{layer.name}/self-factor", output=output, definitions=_read(layer, output))


def _read(layer: Layer, output: Definition) -> tuple[Definition, ...]:
    """Return the definitions that an expression reads, directly or through others, in their order."""
    kept: list[Definition] = []
    bases = {e.base for e in output.expression.atoms(sympy.Indexed)}
    for definition in reversed(layer.definitions):
        if definition.base in bases:
            kept.append(definition)
            bases |= {e.base for e in definition.expression.atoms(sympy.Indexed)}
    return tuple(reversed(kept))
