"""The file of one map of a convolution: the kernels that work position by position, and the lines that launch them."""

from __future__ import annotations

from typing import Any

from sympy import Symbol

from codegen.targets.cuda.passes import Loop
from codegen.targets.patch_lines import PatchLines, helpers
from codegen.targets.patch_steps import Positions
from codegen.targets.torch.patch_family import PatchMap
from codegen.targets.torch.patch_function import HELPER_NAMES, patch_headings
from codegen.targets.torch.wrap import fill
from codegen.targets.triton.printer import TilePrinter
from codegen.targets.triton.roles import Roles
from derive.forward_map import BATCH

_GEOMETRY = [f"{word}_{axis}" for word in ("length", "stride", "padding", "dilation") for axis in (1, 2, 3)]
_OTHER = Symbol("other_channels", positive=True, integer=True)


def patch_map_context(chosen: PatchMap) -> dict[str, Any]:
    """Return what ``patch_map.py.jinja`` needs; raise ``UsageError`` for a map with a part that has no kernel."""
    lines = PatchLines(chosen.plan, _launch)
    passes = [lines.forward(False), lines.forward(True), lines.backward(False), lines.backward(True)]
    kernels = [_kernel(name, step) for name, step in lines.kernels.items()]
    text = [line for part in passes for line in part]
    return {
        **patch_headings(chosen),
        "plain": chosen.module,
        "geometry": _GEOMETRY,
        "tensors": chosen.plan.input_names,
        "module": f"_triton{chosen.module}",
        **dict(zip(("lean_lines", "keeping_lines", "again_lines", "kept_lines"), passes, strict=True)),
        "kernels": kernels,
        "helpers": sorted({*helpers(text, HELPER_NAMES), "rounded_type"}),
        "floors": "floor=floor" in "\n".join(text),
        "uses_math": "math." in "\n".join(text),
        "taps": sorted({word for k in kernels for word in k["words"]}),
    }


def _printer(step: Positions) -> TilePrinter:
    """Print with positions as rows and the kernel's channels as columns."""
    values = [*step.kernel.reads, *step.kernel.writes]
    channels = next((v.indices[1].size for v in values if len(v.indices) == 2), _OTHER)
    return TilePrinter(Roles(BATCH.size, channels, Symbol("units")), step.kernel.reads)


def _printed(step: Positions) -> tuple[list[str], list[dict[str, Any]], list[str]]:
    """Return the lines before the loops, the loops, and the constants with their texts."""
    printer = _printer(step)
    before = printer.lines(step.kernel.before)
    loops = [_loop(loop, printer) for loop in step.kernel.loops if loop.loads]
    return before, loops, [f"{name}={text}" for name, text in printer.constants]


def _loop(loop: Loop, printer: TilePrinter) -> dict[str, Any]:
    return {
        "started": printer.started(loop.sums),
        "loads": loop.loads,
        "lines": printer.lines([*loop.pointwise, *loop.sums], onward=True),
        "stores": loop.stores,
        "after": printer.lines(loop.after),
    }


def _kernel(name: str, step: Positions) -> dict[str, Any]:
    before, loops, constants = _printed(step)
    taps = {tap.target for tap in step.taps}
    tensors = _tensors(step)
    wide = {v.name for v in (*step.kernel.reads, *step.kernel.writes) if len(v.indices) == 2}
    return {
        "name": name,
        "arguments": [
            *(f"{word}" for t in tensors for word in (f"{t}_ptr", f"{t}_s", f"{t}_g", f"{t}_c", f"{t}_p")),
            *(f"{tap.operand}_ptr" for tap in step.taps),
            *(f"{c.split('=')[0]}: tl.constexpr" for c in constants),
        ],
        "numbers": [v.name for v in step.kernel.reads if v.name not in wide | taps],
        "taps": [{"target": t.target, "operand": t.operand, "function": _function(t.box)} for t in step.taps],
        "words": {_function(t.box) for t in step.taps},
        "before": before,
        "sums": "WIDE" in str((before, loops)),
        "loops": loops,
        "results": [v.name for v in step.outputs if v.name not in wide],
        "place": "output" if step.place == "position" else "long axes",
        "stores": [v.name for v in step.outputs],
    }


def _function(box: bool) -> str:
    return "box_sum" if box else "spread_sum"


def _tensors(step: Positions) -> list[str]:
    """Return the names of the tensors that a kernel reads at its own position, and of those that it writes."""
    taps = {tap.target for tap in step.taps}
    return [*(v.name for v in step.kernel.reads if v.name not in taps), *(v.name for v in step.outputs)]


def _launch(step: Positions, name: str) -> list[str]:
    """Return the lines that launch a kernel over the positions of a tensor."""
    _, _, constants = _printed(step)
    tensors = f"[{', '.join(_tensors(step))}]"
    taps = f"[{', '.join(tap.operand for tap in step.taps)}]"
    call = ", ".join([name, step.like, tensors, taps, "geometry", *constants])
    notes = [f"# {equation}" for equation in step.equations]
    if len(call) + len("walk()") <= 100:
        return [*notes, f"walk({call})"]
    return [*notes, "walk(", f"    {fill(call, 8, 4)}", ")"]
