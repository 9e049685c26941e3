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

from ....runtime.patch_places import has_values, placed, spaced, three
from ....runtime.patches import Geometry
from .tiles import INTERPRETED, Tiles, on

_TILE = 2048 if INTERPRETED.value else 512  # entries of a float64 tile: more would not fit the registers


@triton.jit
def numbers(pointer, image, group, place, s, g, p, inside):
    """Return one number for each position."""
    return tl.load(pointer + image * s + group * g + place * p, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def wide(tile):
    """Return a tile in float64; 16 bits and 64 meet by way of 32."""
    if tile.dtype == tl.bfloat16:
        tile = tile.to(tl.float32)
    return tile.to(tl.float64)


@triton.jit
def entries(pointer, image, group, place, columns, s, g, c, p, inside, channels):
    """Return a tile: some channels of each position, zero beyond the ends."""
    at = pointer + (image * s + group * g + place * p)[:, None] + columns.to(tl.int64)[None, :] * c
    return wide(tl.load(at, mask=inside[:, None] & (columns < channels)[None, :], other=0.0))


@triton.jit
def put(pointer, tile, image, group, place, columns, s, g, c, p, inside, channels):
    """Store a tile: some channels of each position."""
    at = pointer + (image * s + group * g + place * p)[:, None] + columns.to(tl.int64)[None, :] * c
    if pointer.dtype.element_ty == tl.bfloat16:
        tile = tile.to(tl.float32)
    tl.store(at, tile, mask=inside[:, None] & (columns < channels)[None, :])


@triton.jit
def box_place(d, h, w, kd, kh, kw, geometry):
    """Return the place on a map (.., D, H, W) of an entry of the patch of each position, and whether it is there."""
    D, H, W, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
    ld, lh, lw = d * sd + kd * dd - pd, h * sh + kh * dh - ph, w * sw + kw * dw - pw
    return ld, lh, lw, (ld >= 0) & (ld < D) & (lh >= 0) & (lh < H) & (lw >= 0) & (lw < W)


@triton.jit
def spread_place(d, h, w, kd, kh, kw, geometry):
    """Return the position of a map (.., D, H, W) whose patch holds each place as an entry, and whether there is one."""
    D, H, W, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
    ld, lh, lw = d + pd - kd * dd, h + ph - kh * dh, w + pw - kw * dw
    there = (ld >= 0) & (lh >= 0) & (lw >= 0) & (ld % sd == 0) & (lh % sh == 0) & (lw % sw == 0)
    qd, qh, qw = ld // sd, lh // sh, lw // sw
    return qd, qh, qw, there & (qd < D) & (qh < H) & (qw < W)


@triton.jit
def box_sum(pointer, block, d, h, w, inside, geometry, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr):
    """Return the sum of a map (.., D, H, W) over the patch of each position."""
    total = (d * 0).to(tl.float64)
    D, H, W = geometry[0], geometry[1], geometry[2]
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                ld, lh, lw, there = box_place(d, h, w, kd, kh, kw, geometry)
                total += tl.load(pointer + ((block * D + ld) * H + lh) * W + lw, mask=there & inside, other=0.0)
    return total


@triton.jit
def spread_sum(pointer, block, d, h, w, inside, geometry, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr):
    """Return for each position the sum of a map (.., D, H, W) over its positions whose patch contains that position."""
    total = (d * 0).to(tl.float64)
    D, H, W = geometry[0], geometry[1], geometry[2]
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                ld, lh, lw, there = spread_place(d, h, w, kd, kh, kw, geometry)
                total += tl.load(pointer + ((block * D + ld) * H + lh) * W + lw, mask=there & inside, other=0.0)
    return total


def lengths_and_steps(over: Tensor | None, geometry: Geometry) -> tuple[int, ...]:
    """Return the lengths of the space that patches lie in, and how they lie: strides, paddings, dilations."""
    shape = (1, 1, 1) if over is None else three(over.shape[3:])
    return *shape, *(n for part, other in zip(geometry[1:4], (1, 0, 1), strict=True) for n in three(part, other))


def walk(
    kernel: Any,
    like: Tensor,
    tensors: Sequence[Tensor],
    maps: Sequence[Tensor],
    geometry: Geometry,
    seen: tuple[Tensor, Tensor] | None = None,
    any_far: Tensor | None = None,
    **constants: float,
) -> None:
    """Launch a kernel over the positions of ``like``; ``maps`` are summed over patches.

    ``seen`` are the input and the parameters (G, O, C, *K) of a convolution that the kernel takes itself at far
    positions, and ``any_far`` is a number that it sets to one where it meets such a position.
    """
    if not has_values(like):
        return
    length, height, width = three(like.shape[3:])
    count = like.shape[0] * like.shape[1] * length * height * width
    channels = max(1, *(t.shape[2 - like.dim()] for t in tensors))
    columns = min(32, triton.next_power_of_2(channels))
    held = [placed(t, like) for t in tensors]
    over = maps[0] if maps else seen[0] if seen else None
    far = [] if seen is None else [*((t, *spaced(t)) for t in seen), seen[0].shape[2]]
    far += [] if any_far is None else [any_far]
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
            *lengths_and_steps(over, geometry),
            *(value for found in held for value in found),
            *(m.contiguous() for m in maps),
            *far,
            **constants,
            **kernels,
            ROWS=tiles.down,
            COLUMNS=columns,
            **tiles.settings,
        )
