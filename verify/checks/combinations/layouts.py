"""How operands lie in memory: the same numbers at addresses and in steps that a kernel could get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def plain(t: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return t


def strided(t: Tensor) -> Tensor:
    """Return it with another number between each two along the last axis."""
    return torch.stack([t, t + 1], -1)[..., 0] if t.dim() else t


def reversed_axes(t: Tensor) -> Tensor:
    """Return it with the axes in memory in the opposite order."""
    axes = list(reversed(range(t.dim())))
    return t.permute(axes).contiguous().permute(axes)


def among_no_numbers(t: Tensor) -> Tensor:
    """Return it without gaps between numbers that are none: whatever is read beside it shows in the result."""
    wall = t.new_full((64,), math.nan)
    return torch.cat([wall, t.flatten(), wall])[64:-64].view(t.shape)


def negated(t: Tensor) -> Tensor:
    """Return it with its negation pending, as the imaginary part of a conjugate has it."""
    return torch._neg_view(-t) if t.is_floating_point() else t


def channels_last(t: Tensor) -> Tensor:
    """Return it with axis 1, where channels stand, last in memory."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": plain,
    "strided": strided,
    "reversed": reversed_axes,
    "among NaN": among_no_numbers,
    "negated": negated,
    "channels last": channels_last,
}
