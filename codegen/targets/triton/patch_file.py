"""The file of one map of a convolution: the kernels that work position by position, and the lines that launch them."""

from __future__ import annotations

from typing import Any

from sympy import Symbol

from codegen.plans.patch_maps import PatchMap
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
    context, lines = common_context(chosen, "triton", _launch)
    kernels = [_kernel(name, step) for name, step in lines.kernels.items()]
    return {**context, "geometry": _GEOMETRY, "kernels": kernels}


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


def _kernel(name: str, step: Positions) -> dict[str, Any]:
    before, loops, constants = _printed(step)
    tensors = _tensors(step)
    return {
        "name": name,
        "arguments": [
            *(f"{word}" for t in tensors for word in (f"{t}_ptr", f"{t}_s", f"{t}_g", f"{t}_c", f"{t}_p")),
            *(f"{tap.operand}_ptr" for tap in step.taps),
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
        "results": [v.name for v in step.outputs if v.name not in step.wide],
        "stores": [v.name for v in step.outputs],
    }


def _function(box: bool) -> str:
    return "box_sum" if box else "spread_sum"


def _tensors(step: Positions) -> list[str]:
    """Return the names of the tensors that a kernel reads at its own position, then of those that it writes."""
    return [*step.reads, *(v.name for v in step.outputs)]


def _launch(step: Positions, name: str) -> list[str]:
    """Return the lines that launch a kernel over the positions of a tensor."""
    _, _, constants = _printed(step)
    tensors = f"[{', '.join(_tensors(step))}]"
    taps = f"[{', '.join(tap.operand for tap in step.taps)}]"
    call = ", ".join([name, step.like, tensors, taps, "geometry", *constants])
    return launched(step, call)
