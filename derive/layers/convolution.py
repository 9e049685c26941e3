"""Convolutions over 1, 2 or 3 spatial axes, with stride, padding, dilation and groups as symbols.

An entry outside the input is zero (zero padding). Every position uses the same kernel, so positions are samples;
groups are an axis of the kernel, so they are units. ``C`` and ``O`` count the channels within one group: a depthwise
convolution is ``C = 1`` and an ungrouped one ``G = 1``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from derive.declare import forward
from derive.forward_map import Layer

SPACE = {1: ("",), 2: ("h", "w"), 3: ("d", "h", "w")}


def _each(stem: str, space: Iterable[str]) -> list[str]:
    return [stem + axis for axis in space]


def _sizes(grouped: bool, space: Sequence[str], output: str) -> str:
    """Return the sizes: groups and channels, then kernel, input and output lengths, then strides and dilations."""
    lengths = [name for stem in ("K", "L", output, "stride", "dilation") for name in _each(stem, space)]
    return " ".join([*(["G"] if grouped else []), "C", "O", *lengths])


def convolution(
    dimensions: int, *, grouped: bool = False, bias: bool = True, centred: bool = False, name: str = ""
) -> Layer:
    """Return ``z = W * x + b`` over ``dimensions`` spatial axes, without groups or with ``G`` of them.

    With ``centred`` each patch has its mean subtracted first; the zeros of the padding are part of a patch.
    """
    space = SPACE[dimensions]
    k, p = _each("k", space), _each("p", space)
    g, groups = ("g, ", "G ") if grouped else ("", "")
    patch = f"x[{g}c, {', '.join(f'stride{a}*p{a} + dilation{a}*k{a} - padding{a}' for a in space)}]"
    ranges = ", ".join(f"{i}:P{a}" for i, a in zip(p, space, strict=True))
    entries = ", ".join(["c:C", *(f"k{a}:K{a}" for a in space)])
    mean = f"m[{g}{ranges}] = sum[{entries}]({patch})/({'*'.join(['C', *_each('K', space)])})"
    centre = f"({patch} - m[{g}{', '.join(p)}])" if centred else patch
    product = f"sum[c, {', '.join(k)}](W[{g}o, c, {', '.join(k)}]*{centre})"
    words = f"{'centred ' if centred else ''}{'grouped ' if grouped else ''}convolution over {dimensions} axes"
    return forward(
        name or f"convolution-{dimensions}d",
        title=words[0].upper() + words[1:],
        sizes=_sizes(grouped, space, "P"),
        offsets=" ".join(_each("padding", space)),
        inputs={"x": f"{groups}C {' '.join(_each('L', space))}"},
        parameters={"W": f"{groups}O C {' '.join(_each('K', space))}", **({"b": f"{groups}O"} if bias else {})},
        formulas=[*([mean] if centred else []), f"z[{g}o, {ranges}] = {product}{f' + b[{g}o]' if bias else ''}"],
    )


def transposed_convolution(dimensions: int, *, grouped: bool = False, bias: bool = True, name: str = "") -> Layer:
    """Return the transposed convolution: each input position adds a scaled kernel to the output."""
    space = SPACE[dimensions]
    k, p = _each("k", space), _each("p", space)
    meets = "*".join(f"delta(q{a}, stride{a}*p{a} + dilation{a}*k{a} - padding{a})" for a in space)
    g, groups = ("g, ", "G ") if grouped else ("", "")
    product = f"W[{g}c, o, {', '.join(k)}]*x[{g}c, {', '.join(p)}]*{meets}"
    ranges = ", ".join(f"q{a}:Q{a}" for a in space)
    return forward(
        name or f"transposed-convolution-{dimensions}d",
        title=f"{'Grouped t' if grouped else 'T'}ransposed convolution over {dimensions} axes",
        sizes=_sizes(grouped, space, "Q"),
        offsets=" ".join(_each("padding", space)),
        inputs={"x": f"{groups}C {' '.join(_each('L', space))}"},
        parameters={"W": f"{groups}C O {' '.join(_each('K', space))}", **({"b": f"{groups}O"} if bias else {})},
        formulas=[f"z[{g}o, {ranges}] = sum[c, {', '.join(k + p)}]({product}){f' + b[{g}o]' if bias else ''}"],
    )
