"""Checks of a convolution's settings and shapes, for arrays of any library."""

from __future__ import annotations

from collections.abc import Sequence

WORDS = {1: "one axis", 2: "two axes", 3: "three axes"}


def each_axis(name: str, word: str, value: object, axes: int, least: int) -> tuple[int, ...]:
    """Return one integer per axis of space, each at least ``least``; a single integer applies to all axes."""
    values = (value,) * axes if isinstance(value, int) else value
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(_is_integer(v) for v in values):
        raise TypeError(f"{name}: {word} is {value!r}; give an integer, or {axes} of them")
    if len(values) == 1:
        values = tuple(values) * axes
    if len(values) != axes or min(values) < least:
        raise ValueError(
            f"{name}: {word} is {value!r}; give {axes} integers of at least {least}, one per axis of space"
        )
    return tuple(values)


def around(
    name: str, padding: object, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the padding before and after each axis of space; ``padding`` may be "same" or "valid"."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        if any(step != 1 for step in stride):
            raise ValueError(f"{name}: padding='same' with stride {tuple(stride)}; use a stride of 1, or give integers")
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


def check_weight(name: str, axes: int, weight: Sequence[int], transposed: bool) -> None:
    """Raise ValueError unless this is the shape of a weight of a convolution over ``axes`` axes."""
    layout = "(in, out / groups, *kernel)" if transposed else "(out, in / groups, *kernel)"
    if len(weight) != axes + 2 or 0 in weight:
        raise ValueError(f"{name}: weight has shape {tuple(weight)}; over {WORDS[axes]} of space it is {layout}")


def check_channels(
    name: str,
    axes: int,
    x: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    groups: int,
    transposed: bool,
) -> None:
    """Raise ValueError unless an input, a weight and a bias of these shapes fit each other."""
    check_groups(name, groups, **{"the first axis of weight": weight[0]})
    taken = weight[0] if transposed else weight[1] * groups
    made = weight[1] * groups if transposed else weight[0]
    if x[-axes - 1] != taken:
        raise ValueError(
            f"{name}: x has shape {tuple(x)}, {x[-axes - 1]} channels, but the weight "
            f"{tuple(weight)} with {groups} groups takes {taken}; use as many"
        )
    if bias is not None and tuple(bias) != (made,):
        raise ValueError(f"{name}: bias has shape {tuple(bias)}; the weight makes {made} channels: use ({made},)")


def check_reach(
    name: str, space: Sequence[int], kernels: Sequence[int], paddings: Sequence[int], dilations: Sequence[int]
) -> None:
    """Raise ValueError unless the filter fits into the padded input."""
    numbers = zip(space, kernels, paddings, dilations, strict=True)
    for axis, (length, kernel, padding, dilation) in enumerate(numbers):
        wide = dilation * (kernel - 1) + 1
        if length + 2 * padding < wide:
            raise ValueError(
                f"{name}: the kernel spans {wide} positions of axis {axis} of space, which has {length + 2 * padding} "
                "with its padding; pad more, or use a smaller kernel"
            )


def check_extra(
    name: str, lengths: Sequence[int], extras: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> None:
    """Raise ValueError unless the output of a transposed convolution is not empty and its extra length unambiguous."""
    for extra, stride, dilation in zip(extras, strides, dilations, strict=True):
        if extra >= max(stride, dilation):
            raise ValueError(
                f"{name}: output_padding is {extra}, but stride is {stride} and dilation {dilation}; it must be below "
                "one of them"
            )
    if min(lengths) < 1:
        raise ValueError(
            f"{name}: the output would have the lengths {tuple(lengths)}; pad less, or give a larger input"
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
