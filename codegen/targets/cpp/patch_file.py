"""The files of one map of a convolution: its arithmetic in C++, and the two calls from Python."""

from __future__ import annotations

from typing import Any

from codegen.ir.program import Program
from codegen.plans.patch_maps import PatchMap
from codegen.printing.c_names import identifier
from codegen.printing.naming import listed
from codegen.printing.patch_headings import patch_headings
from codegen.targets.cpp.patch_arithmetic import arithmetic
from codegen.targets.cpp.patch_parts import ENTRY, centring, is_transposed


def patch_map_context(chosen: PatchMap) -> dict[str, Any]:
    """Return the context of a map's templates; raise ``UsageError`` for a map that the passes cannot compute."""
    plan, headings = chosen.plan, patch_headings(chosen)
    inputs, saved = plan.input_names, headings["saved_inputs"].split(", ")
    bias = inputs[2] if len(inputs) > 2 else "None"
    gradients = [*plan.backward.outputs, "_"][:3]
    return {
        **headings,
        "plain": chosen.module,
        "module": chosen.module,
        "source": f"{chosen.module}.cpp",
        "prefix": chosen.module,
        "functions": arithmetic(plan),
        "centred": "true" if centring(plan) else "false",
        "transposed": "true" if is_transposed(plan) else "false",
        "turned": str(is_transposed(plan)),
        "entry": ENTRY,
        "kappa": identifier(str(plan.kappa)),
        "forward_operands": ", ".join([*inputs[:2], bias]),
        "backward_operands": ", ".join([*saved[:2], bias if bias in saved else "None"]),
        "saved": saved,
        "forward_equations": _equations(plan.scale, plan.forward),
        "backward_equations": _equations(plan.backward),
        "forward_call": ", ".join([*inputs[:2], bias, str(plan.kappa), "geometry"]),
        "backward_call": ", ".join(["g", *saved[:2], bias if bias in saved else "None", plan.scale_name]),
        "gradients": ", ".join(gradients),
        "returned": ", ".join(plan.backward.outputs),
        "by": listed([f"``{name}``" for name in inputs]),
    }


def _equations(*programs: Program) -> list[str]:
    return [i.equation for program in programs for i in program.instructions if i.equation]
