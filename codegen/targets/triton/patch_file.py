"""The file of one map of a convolution: the kernels that work position by position, and the lines that launch them."""

from __future__ import annotations

from typing import Any

from sympy import Symbol

from codegen.plans.patch_maps import PatchMap
from codegen.printing.far_positions import FarPart, FarPositions, far_positions
from codegen.printing.patch_backend import common_context
from codegen.printing.patch_lines import launched
from codegen.schedule.patch_steps import Positions
from codegen.schedule.row_loops import Loop
from codegen.targets.triton.printer import TilePrinter
from codegen.targets.triton.roles import Roles
from derive.forward_map import BATCH

_GEOMETRY = [f"{word}_{axis}" for word in ("length", "stride", "padding", "dilation") for axis in (1, 2, 3)]
_OTHER = Symbol("other_channels", positive=True, integer=True)


def patch_map_context(chosen: PatchMap) -> dict[str, Any]:
    """Return the context of ``patch_map.py.jinja``; raise ``UsageError`` for a map with a part that has no kernel."""
    far = far_positions(chosen)
    context, lines = common_context(chosen, "triton", lambda step, name: _launch(step, name, far))
    kernels = [_kernel(name, step, far) for name, step in lines.kernels.items()]
    own = {"kernels": kernels, "geometry": _GEOMETRY, "scale": far.scale, "turned": far.turned}
    stores = any(far.product in loop["stores"] for kernel in kernels for loop in kernel["loops"])
    names = ["again_if_far", "convolve_far", "from_unit", *(["in_unit"] if stores else []), "is_far"]
    return {**context, **own, "again_far_first": "", "far_names": names}


def _printer(step: Positions) -> TilePrinter:
    """Return a printer with positions as rows and the kernel's channels as columns."""
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


def _kernel(name: str, step: Positions, far: FarPositions) -> dict[str, Any]:
    before, loops, constants = _printed(step)
    tensors, part = _tensors(step), far.part(step)
    return {
        "name": name,
        "arguments": [
            *(f"{word}" for t in tensors for word in (f"{t}_ptr", f"{t}_s", f"{t}_g", f"{t}_c", f"{t}_p")),
            *(f"{tap.operand}_ptr" for tap in step.taps),
            *_far_arguments(part),
            *(f"{c.split('=')[0]}: tl.constexpr" for c in constants),
        ],
        "numbers": [name for name in step.reads if name not in step.wide],
        "taps": [
            {"target": t.target, "operand": t.operand, "function": _function(t.box), "equation": t.equation}
            for t in step.taps
        ],
        "before": before,
        "sums": "WIDE" in str((before, loops)),
        "loops": loops,
        "far": part,
        "results": [v.name for v in step.outputs if v.name not in step.wide],
        "stores": [v.name for v in step.outputs],
    }


def _far_arguments(part: FarPart) -> list[str]:
    """Return the arguments of a kernel that tells far positions apart."""
    seen = ["seen", "filters", "inner"] if part.convolved else []
    mark = ["any_far_ptr"] if part.marks else []
    return [*seen, *mark, "near: tl.constexpr"] if part.is_met else []


def _function(box: bool) -> str:
    return "box_sum" if box else "spread_sum"


def _tensors(step: Positions) -> list[str]:
    """Return the names of the tensors that a kernel reads at its own position, then of those that it writes."""
    return [*step.reads, *(v.name for v in step.outputs)]


def _launch(step: Positions, name: str, far: FarPositions) -> list[str]:
    """Return the lines that launch a kernel over the positions of a tensor."""
    _, _, constants = _printed(step)
    tensors = f"[{', '.join(_tensors(step))}]"
    taps = f"[{', '.join(tap.operand for tap in step.taps)}]"
    met = ["near=near"] if far.part(step).is_met else []
    call = ", ".join([name, step.like, tensors, taps, "geometry", *far.arguments(step), *met, *constants])
    return launched(step, call)
