"""The maps of convolutions with kernels, and the parts of their files that all targets share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codegen.catalogue import has_companions, patch_maps
from codegen.plans.patch_maps import PatchMap
from codegen.printing.far_positions import far_positions
from codegen.printing.naming import Family
from codegen.printing.patch_headings import HELPER_NAMES, patch_headings
from codegen.printing.patch_lines import Call, PatchLines, helpers
from codegen.printing.places import shared_runtime

SHARED = ("patch_places.py", "patch_operators.py")
_PLACES = ("LEFTOVER", "far_scale", "number", "room", "smallest_sum")


def maps_with_kernels(families: Sequence[Family]) -> tuple[PatchMap, ...]:
    """Return the maps of convolutions that have kernels in a package of these families."""
    return tuple(sorted(patch_maps(), key=lambda m: m.module)) if has_companions(families) else ()


def shared_files(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return the files that the targets' maps share; none if there are no maps."""
    return shared_runtime(*SHARED) if maps else {}


def common_context(chosen: PatchMap, target: str, launch: Call) -> tuple[dict[str, Any], PatchLines]:
    """Return the context of a map's file in every target, and its lines with the kernels that they launch.

    Raises ``UsageError`` for a map with a part that has no kernel.
    """
    lines = PatchLines(chosen.plan, launch)
    passes = [lines.forward(False), lines.forward(True), lines.backward(False), lines.backward(True)]
    text = [line for part in passes for line in part]
    headings = patch_headings(chosen)
    context = {
        **headings,
        **dict(zip(("lean_lines", "keeping_lines", "again_lines", "kept_lines"), passes, strict=True)),
        "plain": chosen.module,
        "tensors": chosen.plan.input_names,
        "helpers": sorted({*helpers(text, HELPER_NAMES), "rounded_type"}),
        "places": sorted({"as_geometry", "as_numbers", "takes", *_used(text)}),
        "uses_math": "math." in "\n".join(text),
        "operator": _operator(chosen, headings, f"{target}_{chosen.module}"),
        "again_far": far_positions(chosen).gradient("g", lines.sums),
    }
    return context, lines


def _used(text: Sequence[str]) -> list[str]:
    return [name for name in _PLACES if any(name in line for line in text)]


def _operator(chosen: PatchMap, headings: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments, calls and schemas of a map's registered operators, forward and backward."""
    plan = chosen.plan
    kappa, scale, product = str(plan.kappa), plan.scale_name, plan.product
    given, saved = list(plan.input_names), headings["saved_inputs"].split(", ")
    results = plan.backward.outputs
    types = ", ".join(["Tensor"] * len(results))
    settings = [f"{kappa}: float", "numbers: Sequence[int]"]
    read = ["g", *saved, scale]
    return {
        "name": name,
        "forward_arguments": [*(f"{n}: Tensor" for n in given), *settings, "recompute: bool"],
        "backward_arguments": [
            *(f"{n}: Tensor" for n in read),
            f"{product}: Tensor | None",
            *settings,
            "wanted: Sequence[bool]",
        ],
        "gradient_types": f"tuple[{types}]",
        "others": f"{', '.join(results[1:])}{',' * (len(results) == 2)}",
        "weight": results[1],
        "results": ", ".join([results[0], *(f"{r}.to({given[0]}.dtype)" for r in results[1:])]),
        "forward_call": ", ".join([*given, kappa, "as_numbers(geometry)", "recompute"]),
        "backward_call": ", ".join([*read, product, f"ctx.{kappa}", "as_numbers(ctx.geometry)", "wanted"]),
        "forward_schema": [
            f"({_schema(given)}, float {kappa}, int[] numbers, bool recompute) ",
            "-> (Tensor, Tensor, Tensor)",
        ],
        "backward_schema": [
            f"({_schema(read)}, Tensor? {product}, float {kappa}, int[] numbers, bool[] wanted) ",
            f"-> ({types})",
        ],
    }


def _schema(names: Sequence[str]) -> str:
    return ", ".join(f"Tensor {name}" for name in names)
