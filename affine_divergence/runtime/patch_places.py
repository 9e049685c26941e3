"""What the kernels of convolutions share in all targets: memory at positions of (batch, groups, channels, *space).

One number per position is (batch, groups, 1, *space). Compilers run the same lines on tensors without values, which
only have memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .patches import Geometry
from .rows import FAR

LEFTOVER = torch.finfo(torch.float64).eps ** 0.75  # the largest rounding error of a difference, relative to the minuend
_TYPES = (torch.bfloat16, torch.float32, torch.float64)


class Placed(NamedTuple):
    """A tensor, and the strides of its images, groups, channels and positions."""

    tensor: Tensor
    image: int
    group: int
    channel: int
    step: int


def takes(*tensors: Tensor) -> bool:
    """Return whether the kernels accept these: plain, non-empty tensors of one type, which is not float16."""
    plain = all(type(t) in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling() for t in tensors)
    first = tensors[0].dtype
    return plain and first in _TYPES and all(t.dtype == first and t.numel() and not t.is_meta for t in tensors)


def has_values(t: Tensor) -> bool:
    """Return whether a tensor has values that a kernel can read, not only a shape."""
    return type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta


def number(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return memory for one number per position of a tensor."""
    return like.new_empty((*like.shape[:2], 1, *like.shape[3:]), dtype=dtype)


def room(like: Tensor) -> Tensor:
    """Return memory of a tensor's shape and type, with its layout if its positions have a single stride."""
    made = torch.empty_like(like)
    return made if _in_one_step(made) else like.new_empty(like.shape)


def placed(t: Tensor, like: Tensor) -> Placed:
    """Return a tensor at the positions of another; it is copied if its positions do not have a single stride."""
    t = t if t.dim() == like.dim() else t.unsqueeze(0)
    t = t.expand(like.shape[0], like.shape[1], t.shape[2], *like.shape[3:])
    t = t if _in_one_step(t) else t.contiguous()
    image, group, channel = t.stride()[:3]
    return Placed(t, image, group, channel, t.stride(-1))


def _in_one_step(t: Tensor) -> bool:
    steps = list(zip(t.shape[3:], t.stride()[3:], strict=True))
    return all(step == size * inner for (_, step), (size, inner) in itertools.pairwise(steps))


def smallest_sum(x: Tensor) -> float:
    """Return the sum of squares below which a patch counts as zero: its root would not be normal."""
    return float(torch.finfo(torch.promote_types(x.dtype, torch.float32)).tiny ** 2)


def far_scale(kappa: float, x: Tensor) -> float:
    """Return the scale, a power of two, below which a position is far: sums of its products may leave the range.

    Of float64 squares leave the range before, so that there none is.
    """
    return 0.0 if x.dtype == torch.float64 else 2.0 ** round(math.log2(kappa) / 2) / FAR


def spaced(t: Tensor) -> tuple[int, ...]:
    """Return how far images, groups, channels, and neighbours along three axes of space lie apart.

    Of a tensor without images, as of parameters, these are groups, channels of the output and of the input.
    """
    return *t.stride()[:3], *three(t.stride()[3:], 0)


def three(lengths: Sequence[int], other: int = 1) -> tuple[int, int, int]:
    """Return the lengths of three axes; missing axes have the length ``other``."""
    first, second, third = (*(other,) * (3 - len(lengths)), *lengths)
    return first, second, third


def as_numbers(geometry: Geometry) -> list[int]:
    """Return a geometry as one list of integers for operators."""
    return [n for part in geometry for n in part]


def as_geometry(numbers: Sequence[int]) -> Geometry:
    """Return the geometry in a list from ``as_numbers``."""
    axes = len(numbers) // len(Geometry._fields)
    return Geometry(*(tuple(numbers[k : k + axes]) for k in range(0, len(numbers), axes)))
