"""The plan of one cancelling map of any layer, independent of the target: its programs, settings and digest.

    forward     inputs, parameters -> output and kept values
    kept        inputs, parameters -> kept values only: scalars per sample that the backward pass reads
    backward    the output's cotangent, inputs, parameters, kept -> gradients
    tangent     inputs, parameters, kept, tangents -> the output's tangent

Everything is lowered by ``gathering`` and differentiated by ``differentiate``. Scales are made finite at energy zero
(``value_at_zero``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sympy
from sympy import Dummy, Expr, IndexedBase, Symbol

from codegen.ir.program import Pointwise, Program, name_of
from codegen.lower.gathering import lower
from codegen.lower.safe_names import check_public_names, local_names, with_names
from codegen.passes.accumulation import Types, choose_types
from codegen.passes.differentiate import forward_mode, reverse
from codegen.passes.value_at_zero import finite_at_zero
from codegen.plans.digest import digest
from derive.errors import UsageError
from derive.family import split_by_parameter
from derive.forward_map import BATCH, Layer
from derive.record import CancellingMap


@dataclass(frozen=True)
class LayerPlan:
    """Everything a target prints for one map; programs use the names in ``names``, all else the layer's own.

    ``kept`` computes the values that ``saved`` names. ``types`` holds the types of each program's values by the
    program's name. ``free_sizes`` are sizes and offsets that no input or parameter determines; ``offsets`` are the
    parameters whose part of the output does not depend on an input. The plain layer, without a map, has no ``kappa``,
    and its weights are initialised as in torch's layers.
    """

    name: str
    kind: str
    layer: Layer
    names: Mapping[str, str]
    forward: Program
    kept: Program
    backward: Program
    tangent: Program
    types: Mapping[str, Types]
    saved: tuple[str, ...]
    offsets: tuple[str, ...]
    digest: str
    kappa: Expr | None = None
    kappa_default: Expr = sympy.S.One
    kappa_above: Expr = sympy.S.Zero
    weight_deviation: Expr | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names in code of the inputs and parameters, in order."""
        return tuple(self.names[t.name] for t in (*self.layer.inputs, *self.layer.parameters))

    @property
    def programs(self) -> tuple[Program, ...]:
        """All programs."""
        return (self.forward, self.kept, self.backward, self.tangent)

    @property
    def read_again(self) -> tuple[str, ...]:
        """The inputs and parameters that the derivatives read, in order."""
        read = {v.name for p in (self.kept, self.backward, self.tangent) for v in p.inputs}
        return tuple(name for name in self.tensors if name in read)

    @property
    def parameter_sizes(self) -> tuple[Symbol, ...]:
        """The sizes that parameters use, in the order in which they are declared."""
        used = {s for p in self.layer.parameters for axis in p.axes for s in axis.free_symbols}
        return tuple(s for s in self.layer.sizes if s in used)

    @property
    def free_sizes(self) -> tuple[Symbol, ...]:
        """Sizes and offsets that the constructor takes in addition to those of the parameters."""
        shown = {s for t in (*self.layer.inputs, *self.layer.parameters) for axis in t.axes for s in axis.free_symbols}
        return tuple(s for s in self.layer.sizes if s not in shown and s != BATCH.size)

    @property
    def real_names(self) -> tuple[str, ...]:
        """The names in code of the tensors that have a gradient."""
        integers = {t.name for t in self.layer.inputs if t.values is not None}
        tensors = (*self.layer.inputs, *self.layer.parameters)
        return tuple(self.names[t.name] for t in tensors if t.name not in integers)


def layer_plan(solution: CancellingMap, name: str = "", convolutions: bool = False) -> LayerPlan:
    """Return the plan of a cancelling map of any layer; raise ``UsageError`` for names that code cannot use.

    With ``convolutions``, sums over patches are lowered to convolutions instead of gathers and contractions.
    """
    energy = solution.mapped.definitions[len(solution.layer.definitions)].name
    starts_at_zero = offsets(solution.layer)
    made = plan_of(solution.mapped, name or solution.name, solution.kind, starts_at_zero, energy, convolutions)
    return replace(
        made,
        kappa=solution.kappa,
        kappa_default=solution.kappa_default,
        kappa_above=_lower_bound(solution),
        weight_deviation=solution.weight_scale,
    )


def plan_of(
    layer: Layer,
    name: str,
    kind: str,
    starts_at_zero: tuple[str, ...],
    energy: str | None,
    convolutions: bool = False,
) -> LayerPlan:
    """Return the plan of a layer without the setting kappa, or whose caller sets it afterwards.

    ``starts_at_zero`` are the parameters that are offsets; ``energy`` names the definition at whose zeros scales are
    made finite; ``convolutions`` as in ``layer_plan``. Raises ``UsageError`` for names that code cannot use.
    """
    public = [t.name for t in (*layer.inputs, *layer.parameters)]
    check_public_names(layer, [*public, *(str(s) for s in layer.sizes if s != BATCH.size)])
    names = local_names(layer)
    program = lower(with_names(layer, names), convolutions)
    integers = {names[t.name] for t in layer.inputs if t.values is not None}
    wanted = [v.name for v in program.inputs if v.name not in integers]
    saved = _saved(program, wanted, [names[d.name] for d in layer.definitions])

    def finite(whole: Program) -> Program:
        return whole if energy is None else finite_at_zero(whole, names[energy])

    forward = finite(replace(program, outputs=(*program.outputs, *saved)))
    kept = finite(program.restricted(f"{program.name}/kept", saved))
    backward, onward = finite(reverse(program, wanted, saved)), finite(forward_mode(program, saved))
    return LayerPlan(
        name=name,
        kind=kind,
        layer=layer,
        names=names,
        forward=forward,
        kept=kept,
        backward=backward,
        tangent=onward,
        types=_types(layer, names, forward, (kept, backward, onward)),
        saved=saved,
        offsets=starts_at_zero,
        digest=digest(layer),
    )


def _saved(program: Program, wanted: Sequence[str], definitions: Sequence[str]) -> tuple[str, ...]:
    """Return the definitions with fewer axes than the output that derivatives read, without those implied by others."""
    axes = len(program.values[program.outputs[0]].indices)
    narrow = [d for d in definitions if len(program.values[d].indices) < axes and BATCH in program.values[d].indices]
    read = {v.name for p in (reverse(program, wanted, narrow), forward_mode(program, narrow)) for v in p.inputs}
    kept = [name for name in narrow if name in read]
    for name in reversed(kept):
        producer = program.producers[name]
        others = {k for k in kept if k != name}
        if isinstance(producer, Pointwise) and {name_of(e) for e in producer.reads} <= others:
            kept = [k for k in kept if k != name]
    return tuple(kept)


def _types(layer: Layer, names: Mapping[str, str], forward: Program, others: Sequence[Program]) -> dict[str, Types]:
    """Return the types of every program; kept values have the type that the forward pass gives them."""
    real = [names[t.name] for t in layer.inputs if t.values is None]
    axes = len(layer.output.indices)
    first = choose_types(forward, real, axes, own=forward.outputs[:1])
    kept, *derived = others
    found = {forward.name: first, kept.name: choose_types(kept, real, axes, given=first)}
    return found | {p.name: choose_types(p, real, axes, given=first, own=p.outputs) for p in derived}


def offsets(layer: Layer) -> tuple[str, ...]:
    """Return the parameters whose part of the output depends on no input: they are initialised to zero."""
    inputs = {t.base for t in layer.inputs}
    scope = {d.base: d for d in layer.definitions}

    def mentioned(expression: Expr) -> set[IndexedBase]:
        found = set(expression.atoms(IndexedBase))
        return found.union(*(mentioned(scope[base].expression) for base in found if base in scope))

    return tuple(name for name, part in split_by_parameter(layer).items() if not mentioned(part) & inputs)


def _lower_bound(solution: CancellingMap) -> Expr:
    """Return the bound that kappa must exceed for the squares of all scales to be positive."""
    unknown = Dummy("kappa", real=True)
    bounds: set[Expr] = {sympy.S.Zero}
    for _, scale in solution.scales:
        squared = sympy.numer(sympy.together((scale**2).xreplace({solution.kappa: unknown})))
        for factor in sympy.Mul.make_args(sympy.factor(squared)):
            if factor.has(unknown) and factor.is_polynomial(unknown) and sympy.degree(factor, unknown) == 1:
                bounds |= set(sympy.solve(factor, unknown))
    found = sympy.Max(*bounds)
    if found.has(unknown):
        raise UsageError(f"map {solution.mapped.name!r}: the values of kappa for which it is real are not known")
    return found
