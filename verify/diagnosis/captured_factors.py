"""Self factors of modules of unknown kind, from an expression derived from the captured program at its own sizes.

The module is captured with the arguments of its first call; only its own trained parameters count as parameters. The
self factor is derived, evaluated in float64 for every sample, and compared with automatic differentiation at a few
outputs. Expensive modules are not captured: long programs, recurrent operators, large tensors, slow derivations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codegen.capture.at_hand import Inputs, copied, instance_factory, program_at
from codegen.capture.driver import Captured, read_from
from codegen.capture.errors import CaptureError
from codegen.capture.exporting import Program
from codegen.capture.proof import places_of
from codegen.ir.interpret import interpret
from codegen.plans.plain import DiagonalPlan, self_factor_diagonal
from derive.algebra.patience import Deadline, OutOfTime, until
from derive.errors import UsageError
from derive.export.text import text
from derive.forward_map import BATCH
from verify.diagnosis.reads import first_tensor

LAW = "captured"
SECONDS, SECONDS_EACH = 30.0, 10.0
_MOST_OPERATORS, _MOST_PARAMETERS, _MOST_OUTPUTS, _CHECKED, _CLOSE = 40, 1 << 22, 1 << 16, 3, 1e-6
_RECURRENT = ("aten.lstm", "aten.gru", "aten.rnn")
_LONGEST = 100


@dataclass(frozen=True)
class CapturedFactors:
    """The mean diagonal entry of K_ss for every sample of the derivation, and its formula as text."""

    values: Tensor
    formula: str
    batch_alone: bool


class NotCaptured(Exception):
    """The reason why a module is not judged by a captured expression."""


def captured_factors(
    module: nn.Module, inputs: Inputs, trained: Sequence[str], z: Tensor, deadline: Deadline
) -> CapturedFactors:
    """Return the self factors of a module at the arguments of a call.

    Args:
        module: any module; it is left as it is.
        inputs: the positional and keyword arguments.
        trained: the names of the parameters that are trained.
        z: the output of that call.
        deadline: the time at which to give up.

    Raises:
        NotCaptured: the module cannot be captured, or only beyond the bounds; the text says why.
    """
    if z.numel() > _MOST_OUTPUTS or sum(p.numel() for p in module.parameters()) > _MOST_PARAMETERS:
        raise NotCaptured(f"it has more than {_MOST_OUTPUTS:,} outputs or {_MOST_PARAMETERS:,} parameters")
    try:
        single = copied(module)
        for name, parameter in single.named_parameters():
            parameter.requires_grad_(name in trained)
        program = _affordable(single, inputs)
        found, _ = read_from(instance_factory(single, inputs, free=False))
        with until(deadline.within(SECONDS_EACH)):
            plan = self_factor_diagonal(found.layer)
    except (CaptureError, UsageError) as problem:
        raise NotCaptured(str(problem)) from problem
    except OutOfTime as problem:
        raise NotCaptured("its derivation takes too long") from problem
    values = _evaluated(found, plan, program)
    _check(found, plan, values, single, inputs)
    factor = plan.derivation.self_factor
    formula = text(factor.expression)
    mean = values.flatten(values.dim() - plan.units).mean(-1) if plan.units else values
    return CapturedFactors(
        mean.reshape(-1),
        formula if len(formula) <= _LONGEST else f"a formula of {len(formula)} characters",
        plan.derivation.samples == (BATCH,),
    )


def _affordable(module: nn.Module, inputs: Inputs) -> Program:
    """Return the program of a module; raise NotCaptured if it would take too long to derive."""
    program = program_at(module, inputs)
    recurrent = next((n.operator for n in program.nodes if n.operator.startswith(_RECURRENT)), "")
    if recurrent:
        raise NotCaptured(f"{recurrent} is recurrent, and deriving its steps one by one takes too long")
    if len(program.nodes) > _MOST_OPERATORS:
        raise NotCaptured(f"its program has {len(program.nodes)} operators, more than {_MOST_OPERATORS}")
    return program


def _evaluated(found: Captured, plan: DiagonalPlan, program: Program) -> Tensor:
    """Return the diagonal of the self factor at the arguments with which the program was captured."""
    given = {(g.kind, g.path): g.value for g in program.given}
    examples = iter(program.made.flat)
    named = {g.path: next(examples) for g in found.samples[0].program.given if g.kind == "input"}
    arrays: dict[str, Any] = {}
    batch = 1
    for tensor in (*found.layer.inputs, *found.layer.parameters):
        path, kind = found.paths[tensor.name], found.read.kinds[tensor.name]
        value = named[path] if kind == "input" else given[kind, path]
        value = value.reshape((*(1,) * (len(tensor.axes) - value.dim()), *value.shape))
        batch = value.shape[0] if tensor.axes[0] == BATCH.size else batch
        arrays[plan.names[tensor.name]] = value.detach().numpy()
    wanted = {v.name for v in plan.program.inputs}
    arrays = {name: array for name, array in arrays.items() if name in wanted}
    (result,) = interpret(plan.program, arrays, {}, {BATCH.size.name: batch}).values()
    return torch.from_numpy(result.copy())


def _check(found: Captured, plan: DiagonalPlan, values: Tensor, module: nn.Module, inputs: Inputs) -> None:
    """Compare the factors of a few outputs with automatic differentiation; raise NotCaptured if they differ."""
    made = instance_factory(module, inputs, free=False)({})
    leaves: dict[str, Tensor] = {n: p for n, p in made.module.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        z = first_tensor(functional_call(made.module, leaves, made.positional, dict(made.named)))
    indices = [*plan.derivation.samples, *plan.derivation.units][: values.dim()]
    batch = {BATCH.size: values.shape[indices.index(BATCH)] if BATCH in indices else 1}
    places = places_of(found, z, batch)
    own = found.layer.output.indices
    for place, entry in random.Random(0).sample(places, min(_CHECKED, len(places))):
        at = dict(zip(own, place, strict=True))
        told = float(values[tuple(at[i] for i in indices)])
        slopes = torch.autograd.grad(z[entry], list(leaves.values()), retain_graph=True, allow_unused=True)
        real = sum(float(g.square().sum()) for g in slopes if g is not None)
        if not abs(told - real) <= _CLOSE * max(abs(real), 1e-6):
            raise NotCaptured(f"the derived factor is {told:.6g} but the measured one {real:.6g} at {entry}")


__all__ = ["LAW", "SECONDS", "CapturedFactors", "NotCaptured", "captured_factors"]
