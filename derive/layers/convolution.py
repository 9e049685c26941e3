"""Convolutions over 1, 2 or 3 spatial axes, with stride, padding, dilation and groups as symbols.

An entry outside the input is zero: that is zero padding. Every position uses the same kernel, so positions are samples;
groups are an axis of the kernel, so they are units. ``C`` and ``O`` count the channels within one group: a depthwise
convolution is ``C = 1`` and an ungrouped one ``G = 1``.
"""

from __future__ import annotations

from collections.abc import Iterable

from derive.declare import forward
from derive.forward_map import Layer

_SPACE = {1: ("",), 2: ("h", "w"), 3: ("d", "h", "w")}


def _each(stem: str, space: Iterable[str]) -> list[str]:
    return [stem + axis for axis in space]


def convolution(dimensions: int, *, grouped: bool = False, name: str = "") -> Layer:
    """Return ``z = W * x + b`` over ``dimensions`` spatial axes, without groups or with ``G`` of them."""
    space = _SPACE[dimensions]
    k, p = _each("k", space), _each("p", space)
    reads = ", ".join(f"stride{a}*p{a} + dilation{a}*k{a} - padding{a}" for a in space)
    g, groups = ("g, ", "G ") if grouped else ("", "")
    product = f"W[{g}o, c, {', '.join(k)}]*x[{g}c, {reads}]"
    ranges = ", ".join(f"{i}:P{a}" for i, a in zip(p, space, strict=True))
    return forward(
        name or f"convolution-{dimensions}d",
        title=f"{'Grouped c' if grouped else 'C'}onvolution over {dimensions} axes",
        sizes=f"{groups}C O {' '.join(_each('K', space) + _each('L', space) + _each('P', space))} "
        + " ".join(_each("stride", space) + _each("dilation", space)),
        offsets=" ".join(_each("padding", space)),
        inputs={"x": f"{groups}C {' '.join(_each('L', space))}"},
        parameters={"W": f"{groups}O C {' '.join(_each('K', space))}", "b": f"{groups}O"},
        formulas=[f"z[{g}o, {ranges}] = sum[c, {', '.join(k)}]({product}) + b[{g}o]"],
    )


def transposed_convolution(dimensions: int, *, grouped: bool = False, name: str = "") -> Layer:
    """Return the transposed convolution: each input position adds a scaled kernel to the output."""
    space = _SPACE[dimensions]
    k, p = _each("k", space), _each("p", space)
    meets = "*".join(f"delta(q{a}, stride{a}*p{a} + dilation{a}*k{a} - padding{a})" for a in space)
    g, groups = ("g, ", "G ") if grouped else ("", "")
    product = f"W[{g}c, o, {', '.join(k)}]*x[{g}c, {', '.join(p)}]*{meets}"
    ranges = ", ".join(f"q{a}:Q{a}" for a in space)
    return forward(
        name or f"transposed-convolution-{dimensions}d",
        title=f"{'Grouped t' if grouped else 'T'}ransposed convolution over {dimensions} axes",
        sizes=f"{groups}C O {' '.join(_each('K', space) + _each('L', space) + _each('Q', space))} "
        + " ".join(_each("stride", space) + _each("dilation", space)),
        offsets=" ".join(_each("padding", space)),
        inputs={"x": f"{groups}C {' '.join(_each('L', space))}"},
        parameters={"W": f"{groups}C O {' '.join(_each('K', space))}", "b": f"{groups}O"},
        formulas=[f"z[{g}o, {ranges}] = sum[c, {', '.join(k + p)}]({product}) + b[{g}o]"],
    )
