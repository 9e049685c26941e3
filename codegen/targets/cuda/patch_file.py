"""The files of one map of a convolution: the kernels that work position by position, and the lines that launch them."""

from __future__ import annotations

from typing import Any

from codegen.ir.program import Pointwise, name_of
from codegen.plans.patch_maps import PatchMap
from codegen.printing.c_kernels import accumulated, assigned
from codegen.printing.c_names import check_distinct, identifier
from codegen.printing.c_scalars import ScalarPrinter
from codegen.printing.far_positions import FarPart, FarPositions, far_positions
from codegen.printing.patch_backend import common_context
from codegen.printing.patch_lines import PatchLines, launched
from codegen.schedule.patch_steps import Positions, Tap
from codegen.schedule.row_loops import Loop

_AXES = (1, 2, 3)
_SPACE = "first, second, third"
_GEOMETRY = [f"{word}_%s" for word in ("here", "there", "kernel", "stride", "padding", "dilation")]
_SPACED = ("image", "group", "channel", "first", "second", "third")
_PRINTER = ScalarPrinter(lambda entry: identifier(name_of(entry)))


def patch_map_context(chosen: PatchMap) -> dict[str, Any]:
    """Return the context of a map's templates; raise ``UsageError`` for a map with a part that has no kernel."""
    prefix, far = chosen.module, far_positions(chosen)
    context, lines = common_context(chosen, "cuda", lambda step, name: _launch(step, _name(prefix, name), far))
    return {
        **context,
        "module": chosen.module,
        "source": f"{chosen.module}.cu",
        "geometry_words": _GEOMETRY,
        "spaced_words": [f"*_{word}" for word in ("data", *_SPACED)],
        "kernels": [_kernel(_name(prefix, name), step, lines, far) for name, step in lines.kernels.items()],
        "again_parameters": _again(),
        "scale": identifier(far.scale),
        "way": "Spread" if far.turned else "Box",
        "again_far_first": f'KERNELS, "{prefix}_weights_again", ',
    }


def _name(prefix: str, kernel: str) -> str:
    return f"{prefix}_{kernel.removesuffix('_kernel')}"


def _launch(step: Positions, name: str, far: FarPositions) -> list[str]:
    """Return the lines that launch a kernel over the positions of a tensor."""
    tensors, numbers = _reads(step) + _writes(step), _numbers(step)
    maps = [tap.operand for tap in step.taps]
    lists = [f"[{', '.join(names)}]" for names in (tensors, numbers, maps)]
    settings = [*_settings(step), *(["near"] if far.part(step).is_met else []), *far.arguments(step)]
    return launched(step, ", ".join(["KERNELS", f'"{name}"', step.like, *lists, "geometry", *settings]))


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


def _kernel(name: str, step: Positions, lines: PatchLines, far: FarPositions) -> dict[str, Any]:
    reads, writes, part = _reads(step), _writes(step), far.part(step)
    results = [v.name for v in step.outputs if v.name not in step.wide]
    parameters = [
        *(f"const Offset {word}" for word in ("count", "groups", "places", "channels")),
        *(word for n in reads for word in _tensor(n, "Element" if n == part.convolved else "const Element")),
        *(word for n in writes for word in _tensor(n, "Element")),
        *(f"{'' if n in results else 'const '}{_type(n, lines)}* {identifier(n)}_data" for n in _numbers(step)),
        *(f"const Wide* {identifier(tap.operand)}_data" for tap in step.taps),
        *(f"const Offset {word % axis}" for word in _GEOMETRY for axis in _AXES if step.taps or part.convolved),
        *([*_spaced("seen"), *_spaced("filters"), "const Offset inner"] if part.convolved else []),
        *(["int* any_far"] if part.marks else []),
        *(f"const Wide {identifier(s)}" for s in _settings(step)),
        *(["const Wide near"] if part.is_met else []),
    ]
    check_distinct(name, [p.split()[-1] for p in parameters])
    return {
        "name": name,
        "parameters": parameters,
        "reads": [identifier(n) for n in reads],
        "writes": [identifier(n) for n in writes],
        "numbers": [identifier(n) for n in _numbers(step) if n not in results],
        "taps": [_tap(tap) for tap in step.taps],
        "far": part,
        "before": [assigned(i, _PRINTER) for i in step.kernel.before],
        "loops": [_loop(loop, part) for loop in step.kernel.loops if loop.loads],
        "results": [{"name": identifier(n), "type": _type(n, lines)} for n in results],
    }


def _tap(tap: Tap) -> str:
    """Return the line that sums a map over patches, or its transpose."""
    call = f"over_patch<{'Box' if tap.box else 'Spread'}>({identifier(tap.operand)}_data, block, place, {_SPACE})"
    return f"const Wide {identifier(tap.target)} = {call};{f'  // {tap.equation}' if tap.equation else ''}"


def _tensor(name: str, kind: str) -> list[str]:
    own = identifier(name)
    return [f"{kind}* {own}_data", *(f"const Offset {own}_{word}" for word in ("image", "group", "apart", "step"))]


def _again() -> list[str]:
    """Return the parameters of the kernel that sums up a gradient again."""
    tensors = [*_spaced("dW", "Element"), *_spaced("g"), *_spaced("x"), "const Rounded* f", "const Rounded* m"]
    counts = [f"const Offset {word}" for word in ("count", "groups", "outer", "inner", "images")]
    return ["const int* any_far", *tensors, *counts, *(f"const Offset {w % axis}" for w in _GEOMETRY for axis in _AXES)]


def _spaced(name: str, kind: str = "const Element") -> list[str]:
    """Return the parameters of a tensor whose entries a kernel meets anywhere."""
    return [f"{kind}* {name}_data", *(f"const Offset {name}_{word}" for word in _SPACED)]


def _type(name: str, lines: PatchLines) -> str:
    return "Rounded" if name in lines.rounded else "Wide"


def _loop(loop: Loop, far: FarPart) -> dict[str, Any]:
    sums = [identifier(i.target.name) for i in loop.sums]
    return {
        "loads": [{"name": identifier(n), "value": _loaded(n, far)} for n in loop.loads],
        "stores": [{"name": identifier(n), "value": _stored(n, far)} for n in loop.stores],
        "sums": sums,
        "lines": [
            *(assigned(i, _PRINTER) for i in loop.pointwise),
            *(accumulated(i, _PRINTER) for i in loop.sums),
        ],
        "totals": [f"{name} = lane_sum({name});" for name in sums],
        "after": [assigned(i, _PRINTER) for i in loop.after],
    }


def _loaded(name: str, far: FarPart) -> str:
    """Return the value of an entry that has been loaded."""
    own = identifier(name)
    value = f"widen({own}_chunk.entries[k])"
    return f"is_far ? {value} / UNIT : {value}" if name in (far.product, far.convolved) else value


def _stored(name: str, far: FarPart) -> str:
    own = identifier(name)
    return f"is_far ? UNIT * {own} : {own}" if name == far.product else own
