"""Names, sentences and signatures of a convolution's map, the same in every target's file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codegen.plans.patch_maps import PatchMap
from codegen.plans.patches import PatchPlan
from codegen.printing.naming import listed, places
from derive.export.text import text
from derive.forward_map import Definition

_HELPERS = Path(__file__).parents[1] / "runtime" / "patches.py"
HELPER_NAMES = tuple(re.findall(r"^def ([a-z]\w*)\(", _HELPERS.read_text(encoding="utf-8"), re.MULTILINE))


def patch_headings(chosen: PatchMap) -> dict[str, Any]:
    """Return the names, sentences and signatures of the map, for the files of all targets."""
    plan = chosen.plan
    definitions = plan.layer.definitions
    return {
        **_signatures(plan),
        "title": chosen.title,
        "formulas": [_equation(d) for d in (plan.layer.output, *reversed(definitions))],
        "scale_formula": next(_equation(d) for d in definitions if d.name == plan.scale_name),
        "digest": plan.digest,
        "function_class": chosen.function_class,
        "parameters": listed([f"``{name}``" for name in plan.input_names]),
    }


def _equation(definition: Definition) -> str:
    return f"{text(definition.entry)} = {text(definition.expression)}"


def _signatures(plan: PatchPlan) -> dict[str, Any]:
    inputs, kappa = list(plan.input_names), str(plan.kappa)
    settings = [f"{kappa}: float", "geometry: Geometry"]
    tensors = [f"{name}: Tensor" for name in inputs]
    gradient = [v.name for v in plan.backward_scaled.inputs]
    programs = (plan.backward, plan.backward_scaled, plan.tangent, plan.scale)
    saved = [n for n in inputs if any(v.name == n for program in programs for v in program.inputs)]
    results = plan.backward.outputs
    return {
        "scale_name": plan.scale_name,
        "product": plan.product,
        "output": plan.forward.outputs[0],
        "scale_call": f"{inputs[0]}, {kappa}, geometry",
        "portable_arguments": [*tensors, *settings],
        "portable_call": ", ".join([*inputs, kappa, "geometry"]),
        "forward_arguments": [*tensors, *settings, "recompute: bool"],
        "gradient_arguments": [*(f"{n}: Tensor" for n in gradient), *settings, "wanted: tuple[bool, ...]"],
        "gradient_call": ", ".join([*gradient, kappa, "geometry"]),
        "tensors": ", ".join(inputs),
        "forward_names": ", ".join([*(n if n in saved else "_" for n in inputs), f"ctx.{kappa}", "ctx.geometry"]),
        "saved_inputs": ", ".join(saved),
        "saved_count": len(saved),
        "input_names": inputs,
        "saved_names": saved,
        "saved_places": places(saved, inputs),
        "none_yet": " = ".join(results),
        "returned": ", ".join(results),
        "nothing": ", ".join(["None"] * (len(results) + len(settings) + 1)),
        "tangent_arguments": ["ctx: Any", *(f"{n}_t: Tensor | None" for n in inputs), "*_: None"],
        "tangents_given": _tangents_given(inputs, saved),
        "tangent_output": plan.tangent.outputs[0],
    }


def _tangents_given(inputs: Sequence[str], saved: Sequence[str]) -> str:
    """Return the line that replaces missing tangents by zeros; for a tensor that is not saved, by one zero."""
    zero = f"{inputs[0]}.new_zeros(())"
    given = [f"tangent_or_zeros({name}_t, {name if name in saved else zero})" for name in inputs]
    return f"{', '.join(f'{name}_t' for name in inputs)} = {', '.join(given)}"
