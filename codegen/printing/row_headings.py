"""Names, sentences and signatures of a map of rows, the same in every target's file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codegen.plans.rows import Plan
from codegen.printing.naming import branch, forward_equation, listed, places


def heading_context(plan: Plan, with_bias: bool) -> dict[str, Any]:
    """Return the names, sentences and signatures of the map, for the files of all targets."""
    inputs = plan.input_names
    return {
        **branch(plan, with_bias),
        **_signatures(plan),
        "title": f"{plan.name}{'' if with_bias else ' without a bias'}",
        "formula": forward_equation(plan),
        "digest": plan.digest,
        "parameters": listed([f"``{name}``" for name in inputs]),
        "inputs": ", ".join(f"``{name}`` {_shape(plan, name)}" for name in inputs),
    }


def _signatures(plan: Plan) -> dict[str, Any]:
    scale, kappa, inputs, saved = plan.scale_name, str(plan.kappa), plan.input_names, plan.saved_names
    scale_arguments = [v.name for v in plan.scale.inputs] + [str(s) for s in plan.scale.scalars]
    backward, squares = plan.backward.program, plan.plain_scale.instructions[0].target.name
    gradient = [*(v.name for v in backward.inputs), *(str(s) for s in backward.scalars)]
    results = backward.outputs
    return {
        "scale_name": scale,
        "squares": squares,
        "plain_arguments": _typed([squares, kappa], kappa),
        "plain_call": f"{squares}, {kappa}",
        "scale_arguments": [*_typed(scale_arguments, kappa), "length: Length = squared_length"],
        "scale_call": ", ".join(scale_arguments),
        "gradient_arguments": [*_typed(gradient, kappa), "wanted: tuple[bool, ...]"],
        "gradient_call": ", ".join(gradient),
        "wide_call": ", ".join([*(f"{n}.double()" for n in inputs), kappa]),
        "forward_arguments": _typed([*inputs, kappa], kappa),
        "portable_call": ", ".join([*inputs, kappa]),
        "tensors": ", ".join(inputs),
        "forward_names": ", ".join((*(n if n in saved else "_" for n in inputs), "ctx.kappa")),
        "saved_inputs": ", ".join(saved),
        "input_names": inputs,
        "saved_places": places(saved, inputs),
        "none_yet": " = ".join(results),
        "returned": ", ".join(results),
        "output": plan.forward.outputs[0],
        "tangent_arguments": ["ctx: Any", *_typed(plan.tangent_names, kappa), "_: None"],
        "tangent_output": plan.tangent.outputs[0],
    }


def _typed(names: Sequence[str], scalar: str) -> list[str]:
    return [f"{name}: {'float' if name == scalar else 'Tensor'}" for name in names]


def _shape(plan: Plan, name: str) -> str:
    """Return a tensor's declared axes, as ``(B, n)``."""
    declared = {t.name: t for t in (*plan.layer.inputs, *plan.layer.parameters)}
    return f"({', '.join(str(a) for a in declared[name].axes)})"
