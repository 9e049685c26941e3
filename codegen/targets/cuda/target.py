"""The files of the CUDA target: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codegen.catalogue import has_companions
from codegen.plans.patch_maps import PatchMap
from codegen.plans.rows import Plan
from codegen.printing.extents import lengths, shapes_text
from codegen.printing.functional import functions_text
from codegen.printing.launches import Printed, printed, unique, variants
from codegen.printing.naming import AngleFamily, Borrowed, Family
from codegen.printing.patch_backend import maps_with_kernels, shared_files
from codegen.printing.places import folder, in_folder, shared_runtime, target_runtime
from codegen.printing.rendering import SHARED, renderer
from codegen.printing.row_contexts import row_contexts
from codegen.printing.row_headings import heading_context
from codegen.printing.wrap import comment, joined
from codegen.targets.cuda.far_rows import forward_pass
from codegen.targets.cuda.patch_file import patch_map_context
from codegen.targets.cuda.unit_file import unit_file_context

_TEMPLATES = Path(__file__).parent / "templates"
_NAME, _WORDS = "cuda", "The maps by kernels in CUDA C++"
_FIXED, _PATCHES = ("rows.cuh", "compile.py", "launch.py"), ("patches.cuh", "patches.py")


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package, which also needs the files of the torch target.

    Raises ``UsageError`` for a map with a part that neither a kernel nor torch computes.
    """
    result = {}
    for context in row_contexts(map_context, families, angles):
        result[context["source"]] = render("kernels.cu.jinja", context)
        result[f"{context['module']}.py"] = render("map.py.jinja", context)
    if has_companions(families):
        unit = unit_file_context()
        result |= {name: render(f"{name}.jinja", unit) for name in (unit["source"], "unit.py")}
    result["functional.py"] = functions_text([*families, *angles], _NAME, " of tensors on a CUDA device")
    patches = maps_with_kernels(families)
    result = in_folder(_NAME, result | _patch_maps(patches))
    own = target_runtime(_NAME, *_FIXED, *(_PATCHES if patches else ()))
    shared = shared_runtime("kernel_cache.py", "operators.py")
    return result | folder(_NAME, _WORDS) | own | shared | shared_files(patches)


def patch_layer_files(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return the files of a layer that is a convolution with these maps, which also needs those of the torch target."""
    result = in_folder(_NAME, _patch_maps(maps)) | folder(_NAME, _WORDS) | target_runtime(_NAME, *_FIXED, *_PATCHES)
    return result | shared_runtime("kernel_cache.py", "operators.py") | shared_files(maps)


def _patch_maps(maps: Sequence[PatchMap]) -> dict[str, str]:
    result = {}
    for context in map(patch_map_context, maps):
        result[context["source"]] = render("patch_kernels.cu.jinja", context)
        result[f"{context['module']}.py"] = render("patch_map.py.jinja", context)
    return result


def map_context(plan: Plan, with_bias: bool, lent: Borrowed | None = None) -> dict[str, Any]:
    """Return the context of the templates of one map."""
    twin = heading_context(plan, with_bias)
    plain, own = twin["module"], plan.input_names[0]
    prefix = plain
    forward = forward_pass(plan, prefix, own)
    blocks, backward = _blocks(plan, prefix, own)
    lines = [line for p in (*forward, *backward) for line in p.lines]
    return {
        **twin,
        "plain": plain,
        "module": plain,
        "source": f"{plain}.cu",
        "own": own,
        "tensors": ", ".join(plan.input_names),
        **_extents(plan, twin["saved_inputs"].split(", ")),
        "setup": lent.setup if lent else (),
        "forward_call": ", ".join((*plan.input_names, str(plan.kappa))),
        "forward_lines": [line for p in forward for line in p.lines],
        "blocks": blocks,
        "kernels": unique([k for p in (*forward, *backward) for k in p.kernels]),
        "uses_math": any("math." in line for line in lines),
        "uses_functional": any("F." in line for line in lines),
    }


def _extents(plan: Plan, saved: Sequence[str]) -> dict[str, str]:
    """Return the lines that assign axis lengths, and the required shapes of operands."""
    program = plan.backward.program
    values = {v.name: v for v in (*plan.scale.inputs, *plan.forward.inputs, *program.inputs)}
    forward = shapes_text(values[name] for name in plan.input_names)
    backward = shapes_text(values[name] for name in (program.inputs[0].name, *saved))
    return {
        "forward_lengths": lengths(plan.forward, [forward]),
        "forward_shapes": forward,
        "backward_lengths": lengths(program, [backward]),
        "backward_shapes": backward,
    }


def _blocks(plan: Plan, prefix: str, own: str) -> tuple[list[dict[str, Any]], list[Printed]]:
    """Return the branches of the backward pass, one per subset of gradients that share work."""
    program = plan.backward.program
    blocks, parts = [], []
    for group, choices in variants(program):
        for choice in choices:
            part = printed(program.restricted(program.name, choice), prefix, own)
            wanted = [f"wanted[{program.outputs.index(name)}]" for name in choice]
            joint = " and " if len(choices) > 1 else " or "
            keyword = "if" if choice == group else "elif"
            blocks.append({"keyword": keyword, "condition": joint.join(wanted), "lines": part.lines})
            parts.append(part)
    return blocks, parts


render = renderer(_TEMPLATES, SHARED, comment=comment, listed=joined)
