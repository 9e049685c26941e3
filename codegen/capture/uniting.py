"""Unite programs at several sizes into one whose lengths and constants are formulas in the sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.exporting import Given, Node, Program, Reference
from codegen.capture.fitting import Fitter


@dataclass(frozen=True)
class Call:
    """One operator of the united program: arguments are formulas, references and settings; shapes are formulas."""

    name: str
    operator: str
    arguments: dict[str, Any]
    shape: Any
    source: str


@dataclass(frozen=True)
class Declared:
    """A tensor that the program reads: its shape as formulas, and its value at each size."""

    name: str
    kind: str
    path: str
    shape: tuple[Expr, ...]
    given: tuple[Given, ...]

    @property
    def integer(self) -> bool:
        """Whether it holds integers."""
        return not self.given[0].value.is_floating_point() and str(self.given[0].value.dtype) != "torch.bool"


@dataclass(frozen=True)
class United:
    """A program at all sizes."""

    declared: tuple[Declared, ...]
    calls: tuple[Call, ...]
    output: str
    outputs: int


def unite(programs: Sequence[Program], fitter: Fitter) -> United:
    """Return the program of which all are instances; refuse if they differ or a number fits no formula."""
    first = programs[0]
    for other in programs[1:]:
        _same_operators(first, other)
    declared = tuple(_declared([p.given[k] for p in programs], fitter) for k in range(len(first.given)))
    calls = tuple(_call([p.nodes[k] for p in programs], fitter) for k in range(len(first.nodes)))
    return United(declared, calls, first.output, first.outputs)


def _same_operators(first: Program, other: Program) -> None:
    if [(g.kind, g.path) for g in first.given] != [(g.kind, g.path) for g in other.given]:
        raise refuse(
            "the module has different parameters or buffers at different sizes", "let sizes change shapes only"
        )
    for a, b in zip(first.nodes, other.nodes, strict=False):
        if a.operator != b.operator:
            raise refuse(
                f"the module computes {a.operator} at some sizes and {b.operator} at others, or from call to call",
                "forward must compute the same at all sizes, independent of anything else",
                a.source or b.source,
            )
    if len(first.nodes) != len(other.nodes):
        longer = max(first.nodes, other.nodes, key=len)
        node = longer[min(len(first.nodes), len(other.nodes))]
        raise refuse(
            "the number of operators depends on the sizes: a loop over a size, or state from call to call",
            f"replace the loop by one {node.operator} over an axis, or make that size a number in the factory",
            node.source,
        )


def _declared(given: Sequence[Given], fitter: Fitter) -> Declared:
    import torch

    first = given[0]
    if not isinstance(first.value, torch.Tensor):
        if any(g.value != first.value for g in given):
            raise refuse(f"the input {first.path!r} is a number that varies with the sizes", "pass it as a tensor")
        return Declared(first.name, "setting", first.path, (), tuple(given))
    shapes = [tuple(map(int, g.value.shape)) for g in given]
    shape = _shape(shapes, fitter, f"{first.kind} {first.path!r}", "")
    return Declared(first.name, first.kind, first.path, shape, tuple(given))


def _shape(shapes: Sequence[tuple[int, ...]], fitter: Fitter, what: str, source: str) -> tuple[Expr, ...]:
    if len({len(s) for s in shapes}) > 1:
        raise refuse(f"the number of axes of {what} depends on the sizes", "let sizes change lengths only", source)
    return tuple(_fitted([s[k] for s in shapes], fitter, f"axis {k} of {what}", source) for k in range(len(shapes[0])))


def _fitted(values: Sequence[int], fitter: Fitter, what: str, source: str) -> Expr:
    found = fitter.integer(values)
    if found is None:
        raise _does_not_fit(values, fitter, what, source)
    return found


def _does_not_fit(values: Sequence[float], fitter: Fitter, what: str, source: str) -> Exception:
    shown = ", ".join(
        f"{value:g} at {' '.join(f'{s}={n}' for s, n in point.items())}"
        for value, point in list(zip(values, fitter.points, strict=True))[:3]
    )
    return refuse(
        f"{what} is no polynomial in the sizes with integer coefficients: {shown}",
        "let the factory take smaller sizes and multiply them (heads and width of a head, not their product), "
        "and let its numbers depend on nothing else",
        source,
    )


def _call(nodes: Sequence[Node], fitter: Fitter) -> Call:
    first = nodes[0]
    what = f"the result of {first.operator}"
    arguments = {
        key: _argument([n.arguments[key] for n in nodes], fitter, f"{key!r} of {first.operator}", first.source)
        for key in first.arguments
    }
    shape: Any = None
    if first.shape is not None and first.shape and isinstance(first.shape[0], tuple):
        count = {len(n.shape or ()) for n in nodes}
        if len(count) > 1:
            raise refuse(
                f"the number of tensors that {first.operator} returns depends on the sizes",
                "reshape the axis into two and compute over both",
                first.source,
            )
        shape = tuple(_shape([n.shape[k] for n in nodes], fitter, what, first.source) for k in range(count.pop()))  # type: ignore[index, misc]
    elif first.shape is not None:
        shape = _shape([n.shape for n in nodes], fitter, what, first.source)  # type: ignore[misc]
    return Call(first.name, first.operator, arguments, shape, first.source)


def _argument(values: Sequence[Any], fitter: Fitter, what: str, source: str) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        if len({len(v) for v in values}) > 1:
            raise refuse(f"the length of {what} depends on the sizes", "let sizes change numbers only", source)
        return tuple(_argument([v[k] for v in values], fitter, what, source) for k in range(len(first)))
    if isinstance(first, bool | str | Reference | None) or not isinstance(first, int | float):
        if any(v != first for v in values):
            raise refuse(f"{what} depends on the sizes, or on the call", "make it the same at all sizes", source)
        return first
    if all(isinstance(v, int) for v in values):
        return _fitted(values, fitter, what, source)
    found = fitter.real([float(v) for v in values])
    if found is None or found is sympy.nan:
        raise refuse(
            f"{what} is a number that fits no formula in the sizes: {', '.join(f'{v:.6g}' for v in values[:3])}",
            "write it as a rational number times a power 1, -1, 1/2 or -1/2 of a polynomial in the sizes, "
            "and let it depend on nothing else",
            source,
        )
    return found
