"""What a caller of a convolution can get wrong: every message names the value, the cause and the mend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .patches import Geometry, reach

_SPREADS = torch.__version__ >= "2.13"  # from which on torch convolves DTensors as it convolves tensors
_WORDS = {1: "one axis", 2: "two axes", 3: "three axes"}


def each_axis(name: str, word: str, value: object, axes: int, least: int) -> tuple[int, ...]:
    """Return one integer an axis of space, of at least ``least``; one integer stands for all axes."""
    values = (value,) * axes if isinstance(value, int) else value
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(_is_integer(v) for v in values):
        raise TypeError(f"{name}: {word} is {value!r}; give an integer, or {axes} of them")
    if len(values) == 1:
        values = tuple(values) * axes
    if len(values) != axes or min(values) < least:
        raise ValueError(f"{name}: {word} is {value!r}; give {axes} integers of at least {least}, one an axis of space")
    return tuple(values)


def around(
    name: str, padding: object, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Return what is added before and after each axis of space; ``padding`` may be "same" or "valid"."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(
                f"{name}: padding='same' with stride {tuple(stride)}; it needs a stride of 1, or give numbers"
            )
        total = [step * (length - 1) for step, length in zip(dilation, kernel, strict=True)]
        return [(both // 2, both - both // 2) for both in total]
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding is {padding!r}; give 'same', 'valid' or integers")
    return [(both, both) for both in each_axis(name, "padding", padding, len(kernel), 0)]


def check_groups(name: str, groups: object, **channels: int) -> int:
    """Return ``groups``; raise unless it is a positive integer that divides every number of channels."""
    if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1:
        raise ValueError(f"{name}: groups is {groups!r}; give a positive integer")
    for word, count in channels.items():
        if count % groups:
            raise ValueError(f"{name}: {word} is {count}, which {groups} groups do not divide; change one of them")
    return groups


def check_shapes(
    name: str, axes: int, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool
) -> None:
    """Raise ValueError unless ``x``, the weight and the bias fit each other, as those of torch's convolutions do.

    NotImplementedError for DTensors where torch's own convolution of them is wrong.
    """
    if not _SPREADS and type(x).__name__ == "DTensor":
        raise NotImplementedError(
            f"{name}: x is a DTensor, of which torch {torch.__version__} computes wrong gradients in any convolution; "
            "use torch 2.13 or later, or give each rank's tensors"
        )
    layout = "(in, out / groups, *kernel)" if transposed else "(out, in / groups, *kernel)"
    if weight.dim() != axes + 2 or 0 in weight.shape:
        raise ValueError(f"{name}: weight has shape {tuple(weight.shape)}; over {_WORDS[axes]} of space it is {layout}")
    if x.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)}; over {_WORDS[axes]} of space give (batch, channels, *space) or one "
            "image (channels, *space)"
        )
    check_groups(name, groups, **{"the first axis of weight": weight.shape[0]})
    taken = weight.shape[0] if transposed else weight.shape[1] * groups
    made = weight.shape[1] * groups if transposed else weight.shape[0]
    if x.shape[-axes - 1] != taken:
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)}, {x.shape[-axes - 1]} channels, but the weight "
            f"{tuple(weight.shape)} with {groups} groups takes {taken}; give it as many"
        )
    if bias is not None and bias.shape != (made,):
        raise ValueError(f"{name}: bias has shape {tuple(bias.shape)}; the weight makes {made} channels: use ({made},)")


def check_reach(name: str, space: Sequence[int], geometry: Geometry) -> None:
    """Raise ValueError unless the kernel fits into the padded input."""
    for axis, (length, kernel, padding, dilation) in enumerate(
        zip(space, geometry.kernel, geometry.padding, geometry.dilation, strict=True)
    ):
        wide = dilation * (kernel - 1) + 1
        if length + 2 * padding < wide:
            raise ValueError(
                f"{name}: the kernel spans {wide} positions of axis {axis} of space, which has {length + 2 * padding} "
                "with its padding; pad more, or use a smaller kernel"
            )


def check_extra(name: str, positions: Sequence[int], geometry: Geometry) -> None:
    """Raise ValueError unless the output of a transposed convolution is not empty and its extra length unambiguous."""
    for extra, stride, dilation in zip(geometry.extra, geometry.stride, geometry.dilation, strict=True):
        if extra >= max(stride, dilation):
            raise ValueError(
                f"{name}: output_padding is {extra}, but stride is {stride} and dilation {dilation}; it must be below "
                "one of them"
            )
    if min(reach(positions, geometry)) < 1:
        raise ValueError(
            f"{name}: the output would have the lengths {reach(positions, geometry)}; pad less, or give a larger input"
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
