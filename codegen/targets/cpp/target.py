"""The files of the C++ target: from plans to text.

The scalar lines of its kernels (``printing.c_scalars``) and the order of work (``schedule.rows``) are shared with the
CUDA target. The loops over rows differ, and the C++ target recomputes scaled rows instead of storing them: on a CPU,
allocating a matrix costs more than scaling its rows again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codegen.ir.program import Program
from codegen.plans.patch_maps import PatchMap
from codegen.plans.rows import Plan
from codegen.printing.extents import lengths, shapes_text
from codegen.printing.functional import functions_text
from codegen.printing.launches import unique
from codegen.printing.naming import AngleFamily, Borrowed, Family
from codegen.printing.patch_backend import maps_with_kernels, shared_files
from codegen.printing.places import folder, in_folder, shared_runtime, target_runtime
from codegen.printing.rendering import SHARED, renderer
from codegen.printing.row_contexts import row_contexts
from codegen.printing.row_headings import heading_context
from codegen.printing.wrap import comment, joined
from codegen.targets.cpp.fused_prologue import head, joint
from codegen.targets.cpp.patch_file import patch_map_context
from codegen.targets.cpp.unscaled_fast_path import with_trial
from codegen.targets.cpp.wrappers import HostPrinter, Lengths, Pass, tells, walked

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = "cpp"
_WORDS = ("x", "weight", "bias")  # of the public functions
_PATCHES = ("patches.h", "patch_layout.h", "patch_sums.h", "patch_forward.h", "patch_backward.h", "patches.py")


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package, which also needs the files of the torch target.

    Raises ``UsageError`` for a map with a part that neither a kernel nor torch computes.
    """
    result = {}
    for context in row_contexts(map_context, families, angles):
        result[context["source"]] = render("kernels.cpp.jinja", context)
        result[f"{context['module']}.py"] = render("map.py.jinja", context)
    patches = maps_with_kernels(families)
    result |= _patch_maps(patches)
    result["functional.py"] = functions_text(
        [*families, *angles], _NAME, " of tensors on the CPU, computed by kernels in C++"
    )
    headers = ("rows.h", "rows.py", *(_PATCHES if patches else ()))
    return in_folder(_NAME, result) | target_files(*headers) | shared_files(patches)


def patch_layer_files(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return the files of a layer that is a convolution with these maps, which also needs those of the torch target."""
    return in_folder(_NAME, _patch_maps(maps)) | target_files("rows.h", *_PATCHES) | shared_files(maps)


def target_files(*names: str) -> dict[str, str]:
    """Return the files that accompany C++ kernels in every package, with further runtime files of the target."""
    own = target_runtime(_NAME, "python.h", "compile.py", "load.py", "launch.py", *names)
    more = ("patch_operators.py",) if "patches.py" in names else ()
    return folder(_NAME, "The maps by kernels in C++") | own | shared_runtime("kernel_cache.py", "operators.py", *more)


def _patch_maps(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return the files of maps of convolutions."""
    result = {}
    for context in map(patch_map_context, maps):
        result[context["source"]] = render("patch_kernels.cpp.jinja", context)
        result[f"{context['module']}.py"] = render("patch_map.py.jinja", context)
    return result


def map_context(plan: Plan, with_bias: bool, lent: Borrowed | None = None) -> dict[str, Any]:
    """Return the context of the templates of one map."""
    twin = heading_context(plan, with_bias)
    plain, own = twin["module"], plan.input_names[0]
    program = plan.backward.program
    opens = head(program)
    every = joint(program, opens, plain, own) if opens else Pass((), ())
    blocks, spare, backward = _blocks(program, plain, own)
    whole = _joined(plan, plan.forward)
    forward, back = HostPrinter(whole, plain, own, asks=not lent).printed(), [every, *backward]
    first = _joined(plan, plan.forward_scaled)
    scaled = None if lent else HostPrinter(first, plain, own, wide="torch.float32").printed()
    parts = [forward, *back, *([scaled] if scaled else [])]
    lines = [line for p in parts for line in p.whole]
    kernels = [with_trial(k) for k in unique([k for p in parts for k in p.kernels])]
    walks = walked(whole, forward.kernels), walked(program, [k for p in back for k in p.kernels])
    values = {v.name: v for v in (*whole.inputs, whole.values[plan.scale_name], *program.inputs)}
    kept = (program.inputs[0].name, *twin["saved_inputs"].split(", "), plan.scale_name)
    forward_shapes = shapes_text(values[name] for name in plan.input_names)
    backward_shapes = shapes_text(values[name] for name in kept)
    return {
        **twin,
        "plain": plain,
        "module": plain,
        "source": f"{plain}.cpp",
        "own": own,
        "setup": lent.setup if lent else (),
        "forward_call": ", ".join((*plan.input_names, str(plan.kappa))),
        "forward_lengths": lengths(whole, [*forward.whole, forward_shapes]),
        "forward_shapes": forward_shapes,
        "tensors": ", ".join(plan.input_names),
        "named_tensors": ", ".join(f"{word}={name}" for word, name in zip(_WORDS, plan.input_names, strict=False)),
        "backward_shapes": backward_shapes,
        "forward_walked": walks[0],
        "forward_opening": forward.opening,
        "tells": not lent and any(map(tells, forward.kernels)),
        "forward_lines": forward.lines,
        "scaled": scaled.whole if scaled else (),
        "scaled_walked": walked(first, scaled.kernels) if scaled else (),
        "scaled_lengths": lengths(first, scaled.whole) if scaled else "",
        "backward_lengths": lengths(program, [backward_shapes, *(line for p in back for line in p.whole)]),
        "backward_walked": walks[1],
        "every": every.whole,
        "all_wanted": " and ".join(f"wanted[{k}]" for k in range(len(program.outputs))),
        "blocks": blocks,
        "none_yet": " = ".join((*program.outputs, *spare)),
        "kernels": kernels,
        "functions": [f"FUNCTION({k['name']})" for k in kernels],
        "uses_math": any("math." in line for line in lines),
        "uses_functional": any("F." in line for line in lines),
    }


def _joined(plan: Plan, forward: Program) -> Program:
    """Return the output and the row scale as one program, so that each row is read once."""
    inputs = {v.name: v for v in (*plan.scale.inputs, *forward.inputs) if v.name != plan.scale_name}
    return Program(
        forward.name,
        tuple(inputs.values()),
        tuple(dict.fromkeys((*plan.scale.scalars, *forward.scalars))),
        (*plan.scale.instructions, *forward.instructions),
        (*forward.outputs, plan.scale_name),
    )


def _blocks(program: Program, prefix: str, own: str) -> tuple[list[dict[str, Any]], list[str], list[Pass]]:
    """Return the branches of the backward pass, one per gradient; scratch memory; the printed passes.

    The gradient with respect to the input comes last: its product overwrites the scaled input, which is no longer read.
    """
    blocks, parts = [], []
    spare: dict[Lengths, str] = {}
    used: list[str] = []
    for name in (*program.outputs[1:], program.outputs[0]):
        printer = HostPrinter(program.restricted(program.name, (name,)), prefix, own, spare)
        part = printer.printed()
        blocks.append({"condition": f"wanted[{program.outputs.index(name)}]", "lines": part.whole})
        parts.append(part)
        used += printer.taken
        spare |= printer.scratch()
    return blocks, used, parts


def _indented(text: str, columns: int) -> str:
    """Return lines of C++ indented, without empty lines; preprocessor directives are not indented."""
    return "\n".join(line if line.startswith("#") else " " * columns + line for line in text.split("\n") if line)


render = renderer(_TEMPLATES, SHARED, filters={"indented": _indented}, comment=comment, listed=joined)
