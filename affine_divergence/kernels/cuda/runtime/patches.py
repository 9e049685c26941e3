"""Positions of tensors (batch, groups, channels, *space) as arguments of the generated CUDA kernels."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....runtime.patch_places import Placed, has_values, placed, spaced, three
from ....runtime.patches import Geometry
from .launch import Source

_BLOCK, _WARP = 128, 32
_MOST_BLOCKS = 2048  # which share the entries of a gradient that is summed up again
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
    seen: tuple[Tensor, Tensor] | None = None,
    any_far: Tensor | None = None,
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
        seen: the input and the parameters (G, O, C, *K) of a convolution that the kernel takes itself at far positions.
        any_far: a number that the kernel sets to one where it meets such a position.
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
    over = maps[0] if maps else seen[0] if seen is not None else None
    if over is not None:
        arguments += _whole(*own, *_there(over, geometry))
    if seen is not None:
        arguments += [*(value for t in seen for value in _spaced(t)), *_whole(seen[0].shape[2])]
    arguments += [] if any_far is None else [any_far.data_ptr()]
    grid, block = (-(-count * lanes // _BLOCK), 1), (lanes, _BLOCK // lanes)
    kernels.on(like).launch(name, grid, block, [*arguments, *map(ctypes.c_double, settings)])


def again_if_far(
    kernels: Source,
    name: str,
    any_far: Tensor,
    dW: Tensor,
    g: Tensor,
    f: Tensor,
    x: Tensor,
    m: Tensor | None,
    geometry: Geometry,
    turned: bool,
) -> None:
    """Launch the kernel of a name, which sums up a gradient again if ``any_far``: ``weights_again`` in patches.cuh.

    Shapes: ``dW`` (G, O, C, *K), or (G, C, O, *K) of a transposed convolution, which is ``turned``, ``g``
    (B, G, O, *P), ``f`` and ``m`` (B, G, 1, *P), ``x`` (B, G, C, *L).
    """
    if not has_values(x) or x.dtype == torch.float64:
        return
    positions, space = (x, g) if turned else (g, x)
    scale, mean = f.contiguous(), None if m is None else m.contiguous()
    arguments = [any_far.data_ptr(), *(value for t in (dW, g, x) for value in _spaced(t))]
    arguments += [scale.data_ptr(), 0 if mean is None else mean.data_ptr()]
    arguments += _whole(dW.numel(), *dW.shape[:3], x.shape[0])
    arguments += _whole(*three(positions.shape[3:]), *_there(space, geometry))
    grid = min(_MOST_BLOCKS, -(-dW.numel() * _WARP // _BLOCK))
    kernels.on(x).launch(name, (grid, 1), (_WARP, _BLOCK // _WARP), arguments)


def _there(space: Tensor, geometry: Geometry) -> list[int]:
    """Return the lengths of the space that patches lie in and of the kernel, strides, paddings and dilations."""
    parts = zip((geometry.kernel, *geometry[1:4]), (1, 1, 0, 1), strict=True)
    return [*three(space.shape[3:]), *(n for part, other in parts for n in three(part, other))]


def _spaced(t: Tensor) -> list[Any]:
    return [t.data_ptr(), *_whole(*spaced(t))]


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
