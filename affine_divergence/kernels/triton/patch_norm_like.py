"""Triton kernels of the norm-like (normalising) convolution.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[j,k,l](W[g,o,j,k,l]*x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l +
        stridew*pw - paddingw]*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw -
        paddingw, Lw)) + b[g,o]
    f[s,g,ph,pw] = sqrt(kappa - 1)/sqrt(E[s,g,ph,pw])
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw))

Convolutions are torch's. Squares are first summed over the channels, then this map over patches, in the kernel that
needs the sums. Float16, second derivatives, tangents and empty tensors are left to ``kernels.torch.patch_norm_like``.

Derivation (SHA-256 of the map): dce1c5267193894dc95200851bf4e9735dabd0ac0467687ecdcb272401e05e60
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.operands import Unpacked, outside_autocast
from ...runtime.operators import derive, register
from ...runtime.patch_operators import PatchPasses
from ...runtime.patch_places import (
    as_geometry,
    as_numbers,
    far_scale,
    number,
    room,
    smallest_sum,
    takes,
)
from ...runtime.patches import (
    Geometry,
    gather,
    kernel_gradient,
    over_samples,
    rounded_type,
    scatter,
)
from ..torch import patch_norm_like as plain
from .runtime.far_patches import again_if_far, convolve_far, from_unit, is_far
from .runtime.patches import box_sum, entries, numbers, put, spread_sum, walk


@triton.jit
def xx_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, x_ptr, x_s, x_g, x_c, x_p, xx_ptr, xx_s, xx_g, xx_c, xx_p, floor:
    tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store xx at each position."""
    WIDE: tl.constexpr = tl.float64
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    xx_total = tl.zeros((ROWS,), WIDE)
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = entries(
            x_ptr, image, group, place, columns,
            x_s, x_g, x_c, x_p, inside, channels
        )
        xx_total += tl.sum(x * x, axis=1)
    xx = tl.where(floor > xx_total, 0, xx_total)
    tl.store(
        xx_ptr + image * xx_s + group * xx_g + place * xx_p, xx, mask=inside
    )


@triton.jit
def f_z_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, b_ptr, b_s, b_g, b_c, b_p, h_ptr, h_s, h_g, h_c, h_p, f_ptr, f_s,
    f_g, f_c, f_p, z_ptr, z_s, z_g, z_c, z_p, xx_ptr, seen, filters, inner, near: tl.constexpr, sqrt_kappa_minus_1:
    tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store f, z at each position."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    # grouped-convolution/norm-like/define-E
    E = box_sum(
        xx_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    E_or_inf = tl.where(E == 0, float("inf"), E)
    f = sqrt_kappa_minus_1 / tl.sqrt(E_or_inf)  # grouped-convolution/norm-like/define-f
    far = is_far(f, f_ptr, near)
    convolve_far(
        h_ptr, far, (image, group, place, place // (M * N), place // N % M, place % N),
        (h_s, h_g, h_c, h_p), channels, seen, filters, inner,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW, False
    )
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        b = entries(
            b_ptr, image, group, place, columns,
            b_s, b_g, b_c, b_p, inside, channels
        )
        h = entries(
            h_ptr, image, group, place, columns,
            h_s, h_g, h_c, h_p, inside, channels
        )
        h = from_unit(h, far)
        z = b + f[:, None] * h  # grouped-convolution/norm-like/forward
        put(
            z_ptr, z, image, group, place, columns,
            z_s, z_g, z_c, z_p, inside, channels
        )
    tl.store(
        f_ptr + image * f_s + group * f_g + place * f_p, f, mask=inside
    )


@triton.jit
def dh_dE_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, g_ptr, g_s, g_g, g_c, g_p, f_ptr, f_s, f_g, f_c, f_p, h_ptr, h_s,
    h_g, h_c, h_p, dh_ptr, dh_s, dh_g, dh_c, dh_p, dE_ptr, dE_s, dE_g, dE_c, dE_p, seen, filters, inner, any_far_ptr,
    near: tl.constexpr, kappa_minus_1: tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS:
    tl.constexpr, COLUMNS: tl.constexpr
):
    """Store dh, dE at each position."""
    WIDE: tl.constexpr = tl.float64
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    f = numbers(f_ptr, image, group, place, f_s, f_g, f_p, inside)
    far = is_far(f, f_ptr, near)
    tl.store(any_far_ptr + 0 * rows, 1, mask=far)
    convolve_far(
        h_ptr, far, (image, group, place, place // (M * N), place // N % M, place % N),
        (h_s, h_g, h_c, h_p), channels, seen, filters, inner,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW, False
    )
    gh = tl.zeros((ROWS,), WIDE)
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        g = entries(
            g_ptr, image, group, place, columns,
            g_s, g_g, g_c, g_p, inside, channels
        )
        h = entries(
            h_ptr, image, group, place, columns,
            h_s, h_g, h_c, h_p, inside, channels
        )
        h = from_unit(h, far)
        dh = f[:, None] * g
        gh += tl.sum(g * h, axis=1)
        put(
            dh_ptr, dh, image, group, place, columns,
            dh_s, dh_g, dh_c, dh_p, inside, channels
        )
    dE = -(f * f * f) * gh / (2 * kappa_minus_1)
    tl.store(
        dE_ptr + image * dE_s + group * dE_g + place * dE_p, dE, mask=inside
    )


@triton.jit
def dx_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, x_ptr, x_s, x_g, x_c, x_p, dh_W_ptr, dh_W_s, dh_W_g, dh_W_c, dh_W_p,
    dx_ptr, dx_s, dx_g, dx_c, dx_p, dE_ptr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr
):
    """Store dx at each position."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    dxx = spread_sum(
        dE_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        dh_W = entries(
            dh_W_ptr, image, group, place, columns,
            dh_W_s, dh_W_g, dh_W_c, dh_W_p, inside, channels
        )
        x = entries(
            x_ptr, image, group, place, columns,
            x_s, x_g, x_c, x_p, inside, channels
        )
        dx = 2 * dxx[:, None] * x + dh_W  # grouped-convolution/norm-like/backward-dx
        put(
            dx_ptr, dx, image, group, place, columns,
            dx_s, dx_g, dx_c, dx_p, inside, channels
        )


def forward(
    x: Tensor, W: Tensor, b: Tensor, kappa: float, numbers: Sequence[int], recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the scale, and the kept ``h``, which is empty if it is not kept."""
    geometry = as_geometry(numbers)
    if recompute:
        floor = smallest_sum(x)
        near = far_scale(kappa, x)
        h = gather(x, W, geometry)
        xx = number(x, torch.float64)
        walk(xx_kernel, x, [x, xx], [], geometry, floor=floor)
        f = number(h, rounded_type(x))
        z = room(h)
        # grouped-convolution/norm-like/define-f
        # grouped-convolution/norm-like/forward
        walk(
            f_z_kernel, h, [b, h, f, z], [xx], geometry, seen=(x, W), near=near,
            sqrt_kappa_minus_1=math.sqrt(kappa - 1)
        )
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    near = far_scale(kappa, x)
    h = gather(x, W, geometry)
    xx = number(x, torch.float64)
    walk(xx_kernel, x, [x, xx], [], geometry, floor=floor)
    f = number(h, rounded_type(x))
    z = room(h)
    # grouped-convolution/norm-like/define-f
    # grouped-convolution/norm-like/forward
    walk(
        f_z_kernel, h, [b, h, f, z], [xx], geometry, seen=(x, W), near=near,
        sqrt_kappa_minus_1=math.sqrt(kappa - 1)
    )
    return z, f, h


def backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    f: Tensor,
    h: Tensor | None,
    kappa: float,
    numbers: Sequence[int],
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to ``x``, ``W`` and ``b``; the others are empty if not wanted."""
    geometry = as_geometry(numbers)
    dW, db = (x.new_empty(0) for _ in wanted[1:])
    any_far = x.new_zeros(1, dtype=torch.int32)
    if h is None:
        near = far_scale(kappa, x)
        h = gather(x, W, geometry)
        if wanted[2]:
            db = over_samples(g)  # grouped-convolution/norm-like/backward-db
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            dh_dE_kernel, g, [g, f, h, dh, dE], [], geometry, seen=(x, W), any_far=any_far, near=near,
            kappa_minus_1=kappa - 1
        )
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution/norm-like/backward-dW
        dx = room(x)
        # grouped-convolution/norm-like/backward-dx
        walk(dx_kernel, x, [x, dh_W, dx], [dE], geometry)
    else:
        near = far_scale(kappa, x)
        if wanted[2]:
            db = over_samples(g)  # grouped-convolution/norm-like/backward-db
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            dh_dE_kernel, g, [g, f, h, dh, dE], [], geometry, seen=(x, W), any_far=any_far, near=near,
            kappa_minus_1=kappa - 1
        )
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution/norm-like/backward-dW
        dx = room(x)
        # grouped-convolution/norm-like/backward-dx
        walk(dx_kernel, x, [x, dh_W, dx], [dE], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(any_far, dW, g, f, x, None, geometry, False)
    return dx, dW.to(x.dtype), db.to(x.dtype)


_forward = register(
    "triton_patch_norm_like",
    "(Tensor x, Tensor W, Tensor b, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "triton_patch_norm_like_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor f, Tensor? h, float kappa, int[] numbers, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor)",
    backward,
    backward,
)
_passes = PatchPasses(plain.PatchNormLike, plain.PatchNormLike, 3, (0, 1))
derive(_forward, _backward, _passes)


class PatchNormLikeReverse(plain.PatchNormLikeReverse):
    """The map of ``x``, ``W`` and ``b``, kappa, the geometry and whether to recompute, by the kernels.

    Kept values and batching are the base class's. Reverse mode only, which is what ``torch.compile`` can trace.
    """

    @staticmethod
    def forward(
        x: Tensor, W: Tensor, b: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and the kept ``h`` or None."""
        if not takes(x, W, b):
            found: tuple[Tensor, Tensor, Tensor | None]
            found = plain.PatchNormLikeReverse.forward(x, W, b, kappa, geometry, recompute)
            return found
        z, f, h = _forward(x, W, b, kappa, as_numbers(geometry), recompute)
        return z, f, None if recompute else h

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``; None where not needed and for settings."""
        kept = x, W, f, h = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if g is None or torch.is_grad_enabled() or not wanted[0] or not takes(g, x, W):
            known: tuple[Tensor | None, ...]
            known = plain.PatchNormLikeReverse.backward(Unpacked(ctx, kept), g, *_)
            return known
        found = _backward(g, x, W, f, h, ctx.kappa, as_numbers(ctx.geometry), wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None, None, None)


class PatchNormLike(PatchNormLikeReverse, plain.PatchNormLike):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchNormLikeReverse.backward))
