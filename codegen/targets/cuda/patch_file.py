"""The files of one map of a convolution: the kernels that work position by position, and the lines that launch them."""

from __future__ import annotations

from typing import Any

from codegen.ir.program import Pointwise, name_of
from codegen.plans.patch_maps import PatchMap
from codegen.printing.c_kernels import accumulated, assigned
from codegen.printing.c_names import check_distinct, identifier
from codegen.printing.c_scalars import ScalarPrinter
from codegen.printing.patch_backend import common_context
from codegen.printing.patch_lines import PatchLines, launched
from codegen.schedule.patch_steps import Positions, Tap
from codegen.schedule.row_loops import Loop

_AXES = (1, 2, 3)
_SPACE = "first, second, third"
_GEOMETRY = [f"{word}_%s" for word in ("here", "there", "kernel", "stride", "padding", "dilation")]
_PRINTER = ScalarPrinter(lambda entry: identifier(name_of(entry)))


def patch_map_context(chosen: PatchMap) -> dict[str, Any]:
    """Return the context of a map's templates; raise ``UsageError`` for a map with a part that has no kernel."""
    prefix = chosen.module
    context, lines = common_context(chosen, "cuda", lambda step, name: _launch(step, _name(prefix, name)))
    return {
        **context,
        "module": chosen.module,
        "source": f"{chosen.module}.cu",
        "geometry_words": _GEOMETRY,
        "kernels": [_kernel(_name(prefix, name), step, lines) for name, step in lines.kernels.items()],
    }


def _name(prefix: str, kernel: str) -> str:
    return f"{prefix}_{kernel.removesuffix('_kernel')}"


def _launch(step: Positions, name: str) -> list[str]:
    """Return the lines that launch a kernel over the positions of a tensor."""
    tensors, numbers = _reads(step) + _writes(step), _numbers(step)
    maps = [tap.operand for tap in step.taps]
    lists = [f"[{', '.join(names)}]" for names in (tensors, numbers, maps)]
    return launched(step, ", ".join(["KERNELS", f'"{name}"', step.like, *lists, "geometry", *_settings(step)]))


def _reads(step: Positions) -> list[str]:
    return [name for name in step.reads if name in step.wide]


def _writes(step: Positions) -> list[str]:
    return [v.name for v in step.outputs if v.name in step.wide]


def _numbers(step: Positions) -> list[str]:
    """Return the names of tensors with one number per position: those read, then those written."""
    return [n for n in (*step.reads, *(v.name for v in step.outputs)) if n not in step.wide]


def _settings(step: Positions) -> list[str]:
    """Return the scalars that a kernel uses, in the order of its program."""
    expressions = [i.expression for i in step.kernel.instructions if isinstance(i, Pointwise)]
    used = set().union(*(e.free_symbols for e in expressions)) if expressions else set()
    return [str(s) for s in step.scalars if s in used]


def _kernel(name: str, step: Positions, lines: PatchLines) -> dict[str, Any]:
    reads, writes = _reads(step), _writes(step)
    results = [v.name for v in step.outputs if v.name not in step.wide]
    parameters = [
        *(f"const Offset {word}" for word in ("count", "groups", "places", "channels")),
        *(part for n in reads for part in _tensor(n, "const Element")),
        *(part for n in writes for part in _tensor(n, "Element")),
        *(f"{'' if n in results else 'const '}{_type(n, lines)}* {identifier(n)}_data" for n in _numbers(step)),
        *(f"const Wide* {identifier(tap.operand)}_data" for tap in step.taps),
        *(f"const Offset {word % axis}" for word in _GEOMETRY for axis in _AXES if step.taps),
        *(f"const Wide {identifier(s)}" for s in _settings(step)),
    ]
    check_distinct(name, [p.split()[-1] for p in parameters])
    return {
        "name": name,
        "parameters": parameters,
        "reads": [identifier(n) for n in reads],
        "writes": [identifier(n) for n in writes],
        "numbers": [identifier(n) for n in _numbers(step) if n not in results],
        "taps": [_tap(tap) for tap in step.taps],
        "before": [assigned(i, _PRINTER) for i in step.kernel.before],
        "loops": [_loop(loop) for loop in step.kernel.loops if loop.loads],
        "results": [{"name": identifier(n), "type": _type(n, lines)} for n in results],
    }


def _tap(tap: Tap) -> str:
    """Return the line that sums a map over patches, or its transpose."""
    call = f"over_patch<{'Box' if tap.box else 'Spread'}>({identifier(tap.operand)}_data, block, place, {_SPACE})"
    return f"const Wide {identifier(tap.target)} = {call};{f'  // {tap.equation}' if tap.equation else ''}"


def _tensor(name: str, kind: str) -> list[str]:
    own = identifier(name)
    return [f"{kind}* {own}_data", *(f"const Offset {own}_{word}" for word in ("image", "group", "apart", "step"))]


def _type(name: str, lines: PatchLines) -> str:
    return "Rounded" if name in lines.rounded else "Wide"


def _loop(loop: Loop) -> dict[str, Any]:
    sums = [identifier(i.target.name) for i in loop.sums]
    return {
        "loads": [identifier(n) for n in loop.loads],
        "stores": [identifier(n) for n in loop.stores],
        "sums": sums,
        "lines": [
            *(assigned(i, _PRINTER) for i in loop.pointwise),
            *(accumulated(i, _PRINTER) for i in loop.sums),
        ],
        "totals": [f"{name} = lane_sum({name});" for name in sums],
        "after": [assigned(i, _PRINTER) for i in loop.after],
    }
