"""What kernels of convolutions share, whoever runs them: memory at positions of (batch, groups, channels, *space).

One number a position is (batch, groups, 1, *space). Compilers run the same lines on tensors without values, where
memory is all that there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .patches import Geometry

LEFTOVER = torch.finfo(torch.float64).eps ** 0.75  # what rounding may leave of a sum of squares, as a share of it
_TYPES = (torch.bfloat16, torch.float32, torch.float64)


class Placed(NamedTuple):
    """A tensor, and how far apart its images, groups, channels and positions lie."""

    tensor: Tensor
    image: int
    group: int
    channel: int
    step: int


def takes(*tensors: Tensor) -> bool:
    """Return whether the kernels work on these: plain tensors, not empty, of one type, and none of a narrow range."""
    plain = all(type(t) in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling() for t in tensors)
    first = tensors[0].dtype
    return plain and first in _TYPES and all(t.dtype == first and t.numel() and not t.is_meta for t in tensors)


def has_values(t: Tensor) -> bool:
    """Return whether a kernel can read a tensor, rather than its shape alone."""
    return type(t) in (Tensor, torch.nn.Parameter) and not t.is_meta


def number(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return memory for one number a position of a tensor."""
    return like.new_empty((*like.shape[:2], 1, *like.shape[3:]), dtype=dtype)


def room(like: Tensor) -> Tensor:
    """Return memory of a tensor's shape and type, laid out alike if its positions lie in one step."""
    made = torch.empty_like(like)
    return made if _in_one_step(made) else like.new_empty(like.shape)


def placed(t: Tensor, like: Tensor) -> Placed:
    """Return a tensor at the positions of another; it is copied if they do not lie in one step."""
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


def three(lengths: Sequence[int], other: int = 1) -> tuple[int, int, int]:
    """Return lengths of three axes; ``other`` is that of an axis that is not there."""
    first, second, third = (*(other,) * (3 - len(lengths)), *lengths)
    return first, second, third


def as_numbers(geometry: Geometry) -> list[int]:
    """Return a geometry as one list, which operators take."""
    return [n for part in geometry for n in part]


def as_geometry(numbers: Sequence[int]) -> Geometry:
    """Return the geometry of such a list."""
    axes = len(numbers) // len(Geometry._fields)
    return Geometry(*(tuple(numbers[k : k + axes]) for k in range(0, len(numbers), axes)))
