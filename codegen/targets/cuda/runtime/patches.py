"""Positions of tensors (batch, groups, channels, *space) as arguments of the generated CUDA kernels."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ....runtime.patch_places import Placed, has_values, placed, three
from ....runtime.patches import Geometry
from .launch import Source

_BLOCK, _WARP = 128, 32
_CHUNK = 32  # bytes of contiguous channels per thread


def walk(
    kernels: Source,
    name: str,
    like: Tensor,
    tensors: Sequence[Tensor],
    numbers: Sequence[Tensor],
    maps: Sequence[Tensor],
    geometry: Geometry,
    *settings: float,
) -> None:
    """Launch a kernel over the positions of ``like``.

    Args:
        kernels: the file that holds it.
        name: its name.
        like: a tensor (B, G, C, *P) of the space that it runs over.
        tensors: the tensors with channels: inputs, then results.
        numbers: the tensors with one number per position, in the same order.
        maps: the numbers that the kernel sums over patches.
        geometry: the geometry of the patches.
        settings: the kernel's scalar settings.
    """
    if not has_values(like):
        return
    own = three(like.shape[3:])
    count = like.shape[0] * like.shape[1] * math.prod(own)
    lanes = _lanes(like)
    held = [placed(t, like) for t in tensors]
    flat = [t.contiguous() for t in (*numbers, *maps)]
    arguments = [*_whole(count, like.shape[1], math.prod(own), max(1, *(t.shape[2 - like.dim()] for t in tensors)))]
    arguments += [value for there in held for value in _addressed(there)]
    arguments += [t.data_ptr() for t in flat]
    if maps:
        there, parts = three(maps[0].shape[3:]), (geometry.kernel, *geometry[1:4])
        steps = [three(part, other) for part, other in zip(parts, (1, 1, 0, 1), strict=True)]
        arguments += _whole(*own, *there, *(n for step in steps for n in step))
    grid, block = (-(-count * lanes // _BLOCK), 1), (lanes, _BLOCK // lanes)
    kernels.on(like).launch(name, grid, block, [*arguments, *map(ctypes.c_double, settings)])


def _lanes(like: Tensor) -> int:
    """Return how many threads share the channels of a position: several if channels are contiguous."""
    channels, each = like.shape[2], max(1, _CHUNK // like.itemsize)
    if channels <= each or like.stride(2) != 1:
        return 1
    return int(min(_WARP, 2 ** (-(-channels // each) - 1).bit_length()))


def _addressed(there: Placed) -> list[Any]:
    return [there.tensor.data_ptr(), *_whole(*there[1:])]


def _whole(*numbers: int) -> list[Any]:
    return [ctypes.c_longlong(n) for n in numbers]
