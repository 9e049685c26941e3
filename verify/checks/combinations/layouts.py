"""Memory layouts of operands: the same numbers with offsets and strides that a kernel could mishandle."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def plain(t: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return t


def strided(t: Tensor) -> Tensor:
    """Return the tensor with stride 2 in the last axis; other numbers fill the gaps."""
    return torch.stack([t, t + 1], -1)[..., 0] if t.dim() else t


def reversed_axes(t: Tensor) -> Tensor:
    """Return the tensor with its axes stored in reverse order."""
    axes = list(reversed(range(t.dim())))
    return t.permute(axes).contiguous().permute(axes)


def among_no_numbers(t: Tensor) -> Tensor:
    """Return the tensor contiguous between NaNs, so that any read out of bounds shows in the result."""
    wall = t.new_full((64,), math.nan)
    return torch.cat([wall, t.flatten(), wall])[64:-64].view(t.shape)


def negated(t: Tensor) -> Tensor:
    """Return the tensor as a lazy negation (torch's negative bit), like the imaginary part of a conjugate."""
    return torch._neg_view(-t) if t.is_floating_point() else t


def channels_last(t: Tensor) -> Tensor:
    """Return the tensor with axis 1, the channels, stored last."""
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 2 else t


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": plain,
    "strided": strided,
    "reversed": reversed_axes,
    "among NaN": among_no_numbers,
    "negated": negated,
    "channels last": channels_last,
}
