"""What the Triton kernels of convolutions share: positions of a tensor (batch, groups, channels, *space), and patches.

A program works on a block of positions, in the memory order of space. Arithmetic is float64, where squares and cubes of
float32 numbers do not overflow. One number per position is (batch, groups, 1, *space).
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ....runtime.patch_places import has_values, placed, three
from ....runtime.patches import Geometry
from .tiles import INTERPRETED, Tiles, on

_TILE = 2048 if INTERPRETED.value else 512  # entries of a float64 tile: more would not fit the registers


@triton.jit
def numbers(pointer, image, group, place, s, g, p, inside):
    """Return one number for each position."""
    return tl.load(pointer + image * s + group * g + place * p, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def entries(pointer, image, group, place, columns, s, g, c, p, inside, channels):
    """Return a tile: some channels of each position, zero beyond the ends."""
    at = pointer + (image * s + group * g + place * p)[:, None] + columns.to(tl.int64)[None, :] * c
    tile = tl.load(at, mask=inside[:, None] & (columns < channels)[None, :], other=0.0)
    if pointer.dtype.element_ty == tl.bfloat16:  # convert from 16 to 64 bits through 32
        tile = tile.to(tl.float32)
    return tile.to(tl.float64)


@triton.jit
def put(pointer, tile, image, group, place, columns, s, g, c, p, inside, channels):
    """Store a tile: some channels of each position."""
    at = pointer + (image * s + group * g + place * p)[:, None] + columns.to(tl.int64)[None, :] * c
    if pointer.dtype.element_ty == tl.bfloat16:
        tile = tile.to(tl.float32)
    tl.store(at, tile, mask=inside[:, None] & (columns < channels)[None, :])


@triton.jit
def box_sum(
    pointer,
    block,
    d,
    h,
    w,
    inside,
    D,
    H,
    W,
    sd,
    sh,
    sw,
    pd,
    ph,
    pw,
    dd,
    dh,
    dw,
    KD: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
):
    """Return the sum of a map (.., D, H, W) over the patch of each position."""
    total = (d * 0).to(tl.float64)
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                ld, lh, lw = d * sd + kd * dd - pd, h * sh + kh * dh - ph, w * sw + kw * dw - pw
                there = inside & (ld >= 0) & (ld < D) & (lh >= 0) & (lh < H) & (lw >= 0) & (lw < W)
                total += tl.load(pointer + ((block * D + ld) * H + lh) * W + lw, mask=there, other=0.0)
    return total


@triton.jit
def spread_sum(
    pointer,
    block,
    d,
    h,
    w,
    inside,
    D,
    H,
    W,
    sd,
    sh,
    sw,
    pd,
    ph,
    pw,
    dd,
    dh,
    dw,
    KD: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
):
    """Return for each position the sum of a map (.., D, H, W) over its positions whose patch contains that position."""
    total = (d * 0).to(tl.float64)
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                ld, lh, lw = d + pd - kd * dd, h + ph - kh * dh, w + pw - kw * dw
                there = inside & (ld >= 0) & (lh >= 0) & (lw >= 0)
                there = there & (ld % sd == 0) & (lh % sh == 0) & (lw % sw == 0)
                qd, qh, qw = ld // sd, lh // sh, lw // sw
                there = there & (qd < D) & (qh < H) & (qw < W)
                total += tl.load(pointer + ((block * D + qd) * H + qh) * W + qw, mask=there, other=0.0)
    return total


def walk(
    kernel: Any, like: Tensor, tensors: Sequence[Tensor], maps: Sequence[Tensor], geometry: Geometry, **constants: float
) -> None:
    """Launch a kernel over the positions of ``like``; ``maps`` are summed over patches."""
    if not has_values(like):
        return
    length, height, width = three(like.shape[3:])
    count = like.shape[0] * like.shape[1] * length * height * width
    channels = max(1, *(t.shape[2 - like.dim()] for t in tensors))
    columns = min(32, triton.next_power_of_2(channels))
    held = [placed(t, like) for t in tensors]
    shape = three(maps[0].shape[3:]) if maps else (1, 1, 1)
    steps = [n for part, other in zip(geometry[1:4], (1, 0, 1), strict=True) for n in three(part, other)]
    kernels = dict(zip(("KD", "KH", "KW"), three(geometry.kernel), strict=True))
    tiles = Tiles(_TILE // columns, columns, 0)
    with on(like):
        kernel[(triton.cdiv(count, tiles.down),)](
            count,
            like.shape[1],
            length,
            height,
            width,
            channels,
            *shape,
            *steps,
            *(value for found in held for value in found),
            *(m.contiguous() for m in maps),
            **constants,
            **kernels,
            ROWS=tiles.down,
            COLUMNS=columns,
            **tiles.settings,
        )
