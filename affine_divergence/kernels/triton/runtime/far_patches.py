"""What the Triton kernels of convolutions do at far positions, whose scale is below a bound.

There sums of torch's convolutions may have left the range, so what they add up is added up here, in float64. Loops over
far positions have no steps where there are none. A tensor in memory is a tuple: a pointer, and the steps from one
image, group, channel, and neighbour along three axes of space to the next; W has outputs in the place of channels, and
channels in that of images and groups: see ``spaced``.
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....runtime.patch_places import has_values, spaced, three
from ....runtime.patches import Geometry
from .patches import box_place, lengths_and_steps, spread_place, wide
from .tiles import INTERPRETED, Tiles, on

_AGAIN = (256, 64) if INTERPRETED.value else (8, 64)  # entries of a gradient, and positions summed up for them at once
_PROGRAMS = 1024  # at most, which share the entries of a gradient
_FEW = tl.constexpr(32 if INTERPRETED.value else 4)  # channels of a far position at once
_UNIT = tl.constexpr(2.0**-64)  # in which the type of the input holds what the scale of a far position multiplies


@triton.jit
def is_far(f, pointer, near):
    """Return which positions are far, by their scale as it lies in memory; one of zero has nothing to add up."""
    kept = f.to(pointer.dtype.element_ty)
    return (kept > 0) & (kept < near)


@triton.jit
def in_unit(tile, far):
    """Return a tile with far positions in a unit that the type of the input holds."""
    return tl.where(far[:, None], tile * _UNIT, tile)


@triton.jit
def from_unit(tile, far):
    """Return a tile from what ``in_unit`` has made of it."""
    return tl.where(far[:, None], tile / _UNIT, tile)


@triton.jit
def convolve_far(
    y_ptr,
    far,
    place,
    steps,
    channels,
    seen,
    filters,
    inner,
    geometry,
    KD: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    TURNED: tl.constexpr,
):
    """Store a convolution at far positions as it is defined, in a unit that its type holds.

    It is stored and read again: where no position is far, that costs fewer registers than to choose one of two tiles.
    ``place`` is image, group, position in the order of memory, and where that lies along three axes; ``steps`` is how
    far images, groups, channels and positions of ``y_ptr`` lie apart. ``inner`` channels of the input ``seen`` are
    summed over. ``filters`` are the parameters: steps from group to group, output to output, input to input first.
    """
    image, group, position, d, h, w = place
    y_s, y_g, y_c, y_p = steps
    x_ptr, x_s, x_g, x_c, x_d, x_h, x_w = seen
    W_ptr, W_g, W_o, W_c, W_d, W_h, W_w = filters
    for start in range(0, tl.max(far.to(tl.int32), axis=0) * channels, _FEW):
        columns = start + tl.arange(0, _FEW).to(tl.int64)[None, :]
        total = (columns * 0).to(tl.float64) + (far * 0)[:, None]
        for entry in range(KD * KH * KW):
            kd, kh, kw = entry // (KH * KW), entry // KW % KH, entry % KW
            if TURNED:
                ld, lh, lw, there = spread_place(d, h, w, kd, kh, kw, geometry)
            else:
                ld, lh, lw, there = box_place(d, h, w, kd, kh, kw, geometry)
            there = there & far
            entries = x_ptr + image * x_s + group * x_g + ld * x_d + lh * x_h + lw * x_w
            weights = W_ptr + (group * W_g)[:, None] + columns * W_o + (kd * W_d + kh * W_h + kw * W_w)
            for _ in range(inner):
                x = tl.load(entries, mask=there, other=0.0)
                W = tl.load(weights, mask=there[:, None] & (columns < channels), other=0.0)
                total += wide(x)[:, None] * wide(W)
                entries += x_c
                weights += W_c
        y = y_ptr + (image * y_s + group * y_g + position * y_p)[:, None] + columns * y_c
        total *= _UNIT
        if y_ptr.dtype.element_ty == tl.bfloat16:
            total = total.to(tl.float32)
        tl.store(y, total, mask=far[:, None] & (columns < channels))
        tl.debug_barrier()


@triton.jit
def taken(tensor, group, channel, image, d, h, w, inside):
    """Return entries of a tensor in float64."""
    pointer, at_image, at_group, at_channel, at_d, at_h, at_w = tensor
    there = image * at_image + group * at_group + channel * at_channel + d * at_d + h * at_h + w * at_w
    return wide(tl.load(pointer + there, mask=inside, other=0.0))


@triton.jit
def weights_again_kernel(
    any_far,
    dW,
    g,
    f,
    x,
    m,
    counts,
    positions,
    geometry,
    kernel,
    CENTRED: tl.constexpr,
    TURNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store a gradient again if any position is far: see ``again_if_far``."""
    dW_ptr, dW_g, dW_o, dW_c, dW_d, dW_h, dW_w = dW
    count, outer, inner, images = counts
    L, M, N = positions
    KD, KH, KW = kernel
    places = tl.full((), 1, tl.int64) * L * M * N
    for start in range(tl.program_id(0) * ROWS, tl.load(any_far) * count, tl.num_programs(0) * ROWS):
        rows = start + tl.arange(0, ROWS)
        kw, kh, kd = rows % KW, rows // KW % KH, rows // (KW * KH) % KD
        pair = rows // (KW * KH * KD)
        c, o, group = pair % inner, pair // inner % outer, pair // (inner * outer)
        total = tl.zeros((ROWS,), tl.float64)
        for first in range(0, images * places, COLUMNS):
            q = (first + tl.arange(0, COLUMNS).to(tl.int64))[None, :]
            image, place = q // places, q % places
            d, h, w = place // (M * N), place // N % M, place % N
            ld, lh, lw, there = box_place(d, h, w, kd[:, None], kh[:, None], kw[:, None], geometry)
            inside = (rows < count)[:, None] & (image < images)
            there = there & inside
            if TURNED:
                entry = taken(x, group[:, None], o[:, None], image, d, h, w, inside)
                gradient = taken(g, group[:, None], c[:, None], image, ld, lh, lw, there)
                gradient *= taken(f, group[:, None], 0, image, ld, lh, lw, there)
            else:
                entry = taken(x, group[:, None], c[:, None], image, ld, lh, lw, there)
                gradient = taken(g, group[:, None], o[:, None], image, d, h, w, inside)
                gradient *= taken(f, group[:, None], 0, image, d, h, w, inside)
                if CENTRED:
                    entry -= taken(m, group[:, None], 0, image, d, h, w, inside)
            total += tl.sum(gradient * entry, axis=1)
        if dW_ptr.dtype.element_ty == tl.bfloat16:
            total = total.to(tl.float32)
        there = group * dW_g + o * dW_o + c * dW_c + kd * dW_d + kh * dW_h + kw * dW_w
        tl.store(dW_ptr + there, total, mask=rows < count)


def again_if_far(
    any_far: Tensor, dW: Tensor, g: Tensor, f: Tensor, x: Tensor, m: Tensor | None, geometry: Geometry, turned: bool
) -> None:
    """Sum up a gradient with respect to parameters again if ``any_far``: that of torch may have left the range.

    It is the sum over positions of ``f * g``, the gradient with respect to the convolution, times the entries of a
    patch, less the mean ``m`` of the patch if that is given. Shapes: ``dW`` (G, O, C, *K), or (G, C, O, *K) of a
    transposed convolution, which is ``turned``, ``g`` (B, G, O, *P), ``f`` and ``m`` (B, G, 1, *P), ``x``
    (B, G, C, *L).
    """
    if not has_values(x) or x.dtype == torch.float64:
        return
    positions, space = (x, g) if turned else (g, x)
    rows, columns = _AGAIN
    with on(x):
        weights_again_kernel[(min(_PROGRAMS, triton.cdiv(dW.numel(), rows)),)](
            any_far,
            *((t, *spaced(t)) for t in (dW, g, f, x, f if m is None else m)),
            (dW.numel(), *dW.shape[1:3], x.shape[0]),
            three(positions.shape[3:]),
            lengths_and_steps(space, geometry),
            three(geometry.kernel),
            CENTRED=m is not None,
            TURNED=turned,
            ROWS=rows,
            COLUMNS=columns,
            **Tiles(rows, columns, 0).settings,
        )
