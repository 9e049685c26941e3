"""Triton kernels of the norm-like (normalising) convolution of centred patches without a bias.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[c,kh,kw](W[g,o,c,kh,kw]*(x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw
        + stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw -
        paddingw, Lw) - m[s,g,ph,pw]))
    f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw])
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw)) -
        C*Kh*Kw*m[s,g,ph,pw]**2
    m[s,g,ph,pw] = sum[c,kh,kw](x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw + stridew*pw -
        paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw - paddingw,
        Lw))/(C*Kh*Kw)

Convolutions are torch's. Squares are first summed over the channels, then this map over patches, in the kernel that
needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_norm_like_centred_without_bias``.

Derivation (SHA-256 of the map): 4cb6cf6b3cee09b224b2f6960e353fae7f6c058286ce4e8ca2d3b041be621b01
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
    LEFTOVER,
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
    over_kernel,
    over_samples,
    rounded_type,
    scatter,
)
from ..torch import patch_norm_like_centred_without_bias as plain
from .runtime.far_patches import again_if_far, convolve_far, from_unit, in_unit, is_far
from .runtime.patches import box_sum, entries, numbers, put, spread_sum, walk


@triton.jit
def x_sum_xx_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, x_ptr, x_s, x_g, x_c, x_p, x_sum_ptr, x_sum_s, x_sum_g, x_sum_c,
    x_sum_p, xx_ptr, xx_s, xx_g, xx_c, xx_p, floor: tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store x_sum, xx at each position."""
    WIDE: tl.constexpr = tl.float64
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    x_sum = tl.zeros((ROWS,), WIDE)
    xx_total = tl.zeros((ROWS,), WIDE)
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = entries(
            x_ptr, image, group, place, columns,
            x_s, x_g, x_c, x_p, inside, channels
        )
        x_sum += tl.sum(x, axis=1)
        xx_total += tl.sum(x * x, axis=1)
    xx = tl.where(floor > xx_total, 0, xx_total)
    tl.store(
        x_sum_ptr + image * x_sum_s + group * x_sum_g + place * x_sum_p, x_sum, mask=inside
    )
    tl.store(
        xx_ptr + image * xx_s + group * xx_g + place * xx_p, xx, mask=inside
    )


@triton.jit
def f_z_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, W_sum_ptr, W_sum_s, W_sum_g, W_sum_c, W_sum_p, xW_ptr, xW_s, xW_g,
    xW_c, xW_p, f_ptr, f_s, f_g, f_c, f_p, z_ptr, z_s, z_g, z_c, z_p, x_sum_ptr, xx_ptr, seen, filters, inner, near:
    tl.constexpr, patch_entries: tl.constexpr, LEFTOVER: tl.constexpr, sqrt_kappa: tl.constexpr, KD: tl.constexpr, KH:
    tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store f, z at each position."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    x_sum_sum = box_sum(
        x_sum_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    xx_sum = box_sum(
        xx_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    m = x_sum_sum / patch_entries  # centred-convolution-without-bias/norm-like/define-m
    E_total = xx_sum
    E_rest = E_total - patch_entries * (m * m)
    E = tl.where(E_rest <= LEFTOVER * E_total, 0, E_rest)  # centred-convolution-without-bias/norm-like/define-E
    E_or_inf = tl.where(E == 0, float("inf"), E)
    f = sqrt_kappa / tl.sqrt(E_or_inf)  # centred-convolution-without-bias/norm-like/define-f
    far = is_far(f, f_ptr, near)
    convolve_far(
        xW_ptr, far, (image, group, place, place // (M * N), place // N % M, place % N),
        (xW_s, xW_g, xW_c, xW_p), channels, seen, filters, inner,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW, False
    )
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        W_sum = entries(
            W_sum_ptr, image, group, place, columns,
            W_sum_s, W_sum_g, W_sum_c, W_sum_p, inside, channels
        )
        xW = entries(
            xW_ptr, image, group, place, columns,
            xW_s, xW_g, xW_c, xW_p, inside, channels
        )
        xW = from_unit(xW, far)
        h = xW - m[:, None] * W_sum
        z = f[:, None] * h  # centred-convolution-without-bias/norm-like/forward
        put(
            z_ptr, z, image, group, place, columns,
            z_s, z_g, z_c, z_p, inside, channels
        )
    tl.store(
        f_ptr + image * f_s + group * f_g + place * f_p, f, mask=inside
    )


@triton.jit
def f_h_z_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, W_sum_ptr, W_sum_s, W_sum_g, W_sum_c, W_sum_p, xW_ptr, xW_s, xW_g,
    xW_c, xW_p, f_ptr, f_s, f_g, f_c, f_p, h_ptr, h_s, h_g, h_c, h_p, z_ptr, z_s, z_g, z_c, z_p, x_sum_ptr, xx_ptr,
    seen, filters, inner, near: tl.constexpr, patch_entries: tl.constexpr, LEFTOVER: tl.constexpr, sqrt_kappa:
    tl.constexpr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store f, h, z at each position."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    x_sum_sum = box_sum(
        x_sum_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    xx_sum = box_sum(
        xx_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    m = x_sum_sum / patch_entries  # centred-convolution-without-bias/norm-like/define-m
    E_total = xx_sum
    E_rest = E_total - patch_entries * (m * m)
    E = tl.where(E_rest <= LEFTOVER * E_total, 0, E_rest)  # centred-convolution-without-bias/norm-like/define-E
    E_or_inf = tl.where(E == 0, float("inf"), E)
    f = sqrt_kappa / tl.sqrt(E_or_inf)  # centred-convolution-without-bias/norm-like/define-f
    far = is_far(f, f_ptr, near)
    convolve_far(
        xW_ptr, far, (image, group, place, place // (M * N), place // N % M, place % N),
        (xW_s, xW_g, xW_c, xW_p), channels, seen, filters, inner,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW, False
    )
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        W_sum = entries(
            W_sum_ptr, image, group, place, columns,
            W_sum_s, W_sum_g, W_sum_c, W_sum_p, inside, channels
        )
        xW = entries(
            xW_ptr, image, group, place, columns,
            xW_s, xW_g, xW_c, xW_p, inside, channels
        )
        xW = from_unit(xW, far)
        h = xW - m[:, None] * W_sum
        z = f[:, None] * h  # centred-convolution-without-bias/norm-like/forward
        put(
            h_ptr, in_unit(h, far), image, group, place, columns,
            h_s, h_g, h_c, h_p, inside, channels
        )
        put(
            z_ptr, z, image, group, place, columns,
            z_s, z_g, z_c, z_p, inside, channels
        )
    tl.store(
        f_ptr + image * f_s + group * f_g + place * f_p, f, mask=inside
    )


@triton.jit
def x_sum_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, x_ptr, x_s, x_g, x_c, x_p, x_sum_ptr, x_sum_s, x_sum_g, x_sum_c,
    x_sum_p, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store x_sum at each position."""
    WIDE: tl.constexpr = tl.float64
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    x_sum = tl.zeros((ROWS,), WIDE)
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = entries(
            x_ptr, image, group, place, columns,
            x_s, x_g, x_c, x_p, inside, channels
        )
        x_sum += tl.sum(x, axis=1)
    tl.store(
        x_sum_ptr + image * x_sum_s + group * x_sum_g + place * x_sum_p, x_sum, mask=inside
    )


@triton.jit
def m_dh_dE_dx_sum_sum_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, g_ptr, g_s, g_g, g_c, g_p, f_ptr, f_s, f_g, f_c, f_p, W_sum_ptr,
    W_sum_s, W_sum_g, W_sum_c, W_sum_p, xW_ptr, xW_s, xW_g, xW_c, xW_p, m_ptr, m_s, m_g, m_c, m_p, dh_ptr, dh_s, dh_g,
    dh_c, dh_p, dE_ptr, dE_s, dE_g, dE_c, dE_p, dx_sum_sum_ptr, dx_sum_sum_s, dx_sum_sum_g, dx_sum_sum_c, dx_sum_sum_p,
    x_sum_ptr, seen, filters, inner, any_far_ptr, near: tl.constexpr, patch_entries: tl.constexpr, kappa: tl.constexpr,
    KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store m, dh, dE, dx_sum_sum at each position."""
    WIDE: tl.constexpr = tl.float64
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    f = numbers(f_ptr, image, group, place, f_s, f_g, f_p, inside)
    x_sum_sum = box_sum(
        x_sum_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    m = x_sum_sum / patch_entries  # centred-convolution-without-bias/norm-like/define-m
    far = is_far(f, f_ptr, near)
    tl.store(any_far_ptr + 0 * rows, 1, mask=far)
    convolve_far(
        xW_ptr, far, (image, group, place, place // (M * N), place // N % M, place % N),
        (xW_s, xW_g, xW_c, xW_p), channels, seen, filters, inner,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW, False
    )
    gh = tl.zeros((ROWS,), WIDE)
    dh_W_sum = tl.zeros((ROWS,), WIDE)
    for start in range(0, channels, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        W_sum = entries(
            W_sum_ptr, image, group, place, columns,
            W_sum_s, W_sum_g, W_sum_c, W_sum_p, inside, channels
        )
        xW = entries(
            xW_ptr, image, group, place, columns,
            xW_s, xW_g, xW_c, xW_p, inside, channels
        )
        xW = from_unit(xW, far)
        g = entries(
            g_ptr, image, group, place, columns,
            g_s, g_g, g_c, g_p, inside, channels
        )
        h = xW - m[:, None] * W_sum
        dh = f[:, None] * g
        gh += tl.sum(g * h, axis=1)
        dh_W_sum += tl.sum(W_sum * dh, axis=1)
        put(
            dh_ptr, dh, image, group, place, columns,
            dh_s, dh_g, dh_c, dh_p, inside, channels
        )
    dE = -(f * f * f) * gh / (2 * kappa)
    dm = -2 * patch_entries * dE * m - dh_W_sum
    dx_sum_sum = dm / patch_entries
    tl.store(
        m_ptr + image * m_s + group * m_g + place * m_p, m, mask=inside
    )
    tl.store(
        dE_ptr + image * dE_s + group * dE_g + place * dE_p, dE, mask=inside
    )
    tl.store(
        dx_sum_sum_ptr + image * dx_sum_sum_s + group * dx_sum_sum_g + place * dx_sum_sum_p, dx_sum_sum, mask=inside
    )


@triton.jit
def dx_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, x_ptr, x_s, x_g, x_c, x_p, dh_W_ptr, dh_W_s, dh_W_g, dh_W_c, dh_W_p,
    dx_ptr, dx_s, dx_g, dx_c, dx_p, dE_ptr, dx_sum_sum_ptr, KD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, ROWS:
    tl.constexpr, COLUMNS: tl.constexpr
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
    dx_sum = spread_sum(
        dx_sum_sum_ptr, block, place // (M * N), place // N % M, place % N, inside,
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
        dx = 2 * dxx[:, None] * x + dh_W + dx_sum[:, None]  # centred-convolution-without-bias/norm-like/backward-dx
        put(
            dx_ptr, dx, image, group, place, columns,
            dx_s, dx_g, dx_c, dx_p, inside, channels
        )


@triton.jit
def kept_m_dh_dE_dx_sum_sum_kernel(
    count, groups, L, M, N, channels, length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2,
    padding_3, dilation_1, dilation_2, dilation_3, g_ptr, g_s, g_g, g_c, g_p, f_ptr, f_s, f_g, f_c, f_p, h_ptr, h_s,
    h_g, h_c, h_p, W_sum_ptr, W_sum_s, W_sum_g, W_sum_c, W_sum_p, m_ptr, m_s, m_g, m_c, m_p, dh_ptr, dh_s, dh_g, dh_c,
    dh_p, dE_ptr, dE_s, dE_g, dE_c, dE_p, dx_sum_sum_ptr, dx_sum_sum_s, dx_sum_sum_g, dx_sum_sum_c, dx_sum_sum_p,
    x_sum_ptr, any_far_ptr, near: tl.constexpr, patch_entries: tl.constexpr, kappa: tl.constexpr, KD: tl.constexpr, KH:
    tl.constexpr, KW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store m, dh, dE, dx_sum_sum at each position."""
    WIDE: tl.constexpr = tl.float64
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    place = rows % (L * M * N)
    block = rows // (L * M * N)
    image, group = block // groups, block % groups
    f = numbers(f_ptr, image, group, place, f_s, f_g, f_p, inside)
    x_sum_sum = box_sum(
        x_sum_ptr, block, place // (M * N), place // N % M, place % N, inside,
        (length_1, length_2, length_3, stride_1, stride_2, stride_3, padding_1, padding_2, padding_3, dilation_1,
         dilation_2, dilation_3), KD, KH, KW
    )
    m = x_sum_sum / patch_entries  # centred-convolution-without-bias/norm-like/define-m
    far = is_far(f, f_ptr, near)
    tl.store(any_far_ptr + 0 * rows, 1, mask=far)
    gh = tl.zeros((ROWS,), WIDE)
    dh_W_sum = tl.zeros((ROWS,), WIDE)
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
        W_sum = entries(
            W_sum_ptr, image, group, place, columns,
            W_sum_s, W_sum_g, W_sum_c, W_sum_p, inside, channels
        )
        dh = f[:, None] * g
        gh += tl.sum(g * h, axis=1)
        dh_W_sum += tl.sum(W_sum * dh, axis=1)
        put(
            dh_ptr, dh, image, group, place, columns,
            dh_s, dh_g, dh_c, dh_p, inside, channels
        )
    dE = -(f * f * f) * gh / (2 * kappa)
    dm = -2 * patch_entries * dE * m - dh_W_sum
    dx_sum_sum = dm / patch_entries
    tl.store(
        m_ptr + image * m_s + group * m_g + place * m_p, m, mask=inside
    )
    tl.store(
        dE_ptr + image * dE_s + group * dE_g + place * dE_p, dE, mask=inside
    )
    tl.store(
        dx_sum_sum_ptr + image * dx_sum_sum_s + group * dx_sum_sum_g + place * dx_sum_sum_p, dx_sum_sum, mask=inside
    )


def forward(
    x: Tensor, W: Tensor, kappa: float, numbers: Sequence[int], recompute: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the scale, and the kept ``h``, which is empty if it is not kept."""
    geometry = as_geometry(numbers)
    if recompute:
        floor = smallest_sum(x)
        patch_entries = x.shape[2] * math.prod(geometry.kernel)
        near = far_scale(kappa, x)
        W_sum = over_kernel(W)
        xW = gather(x, W, geometry)
        x_sum = number(x, torch.float64)
        xx = number(x, torch.float64)
        walk(x_sum_xx_kernel, x, [x, x_sum, xx], [], geometry, floor=floor)
        f = number(xW, rounded_type(x))
        z = room(xW)
        # centred-convolution-without-bias/norm-like/define-f
        # centred-convolution-without-bias/norm-like/forward
        walk(
            f_z_kernel, xW, [W_sum, xW, f, z], [x_sum, xx], geometry, seen=(x, W), near=near,
            patch_entries=patch_entries, LEFTOVER=LEFTOVER, sqrt_kappa=math.sqrt(kappa)
        )
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    patch_entries = x.shape[2] * math.prod(geometry.kernel)
    near = far_scale(kappa, x)
    W_sum = over_kernel(W)
    xW = gather(x, W, geometry)
    x_sum = number(x, torch.float64)
    xx = number(x, torch.float64)
    walk(x_sum_xx_kernel, x, [x, x_sum, xx], [], geometry, floor=floor)
    f = number(xW, rounded_type(x))
    h = room(xW)
    z = room(xW)
    # centred-convolution-without-bias/norm-like/define-f
    # centred-convolution-without-bias/norm-like/forward
    walk(
        f_h_z_kernel, xW, [W_sum, xW, f, h, z], [x_sum, xx], geometry, seen=(x, W), near=near,
        patch_entries=patch_entries, LEFTOVER=LEFTOVER, sqrt_kappa=math.sqrt(kappa)
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
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to ``x`` and ``W``; the others are empty if not wanted."""
    geometry = as_geometry(numbers)
    dW, = (x.new_empty(0) for _ in wanted[1:])
    any_far = x.new_zeros(1, dtype=torch.int32)
    if h is None:
        patch_entries = x.shape[2] * math.prod(geometry.kernel)
        near = far_scale(kappa, x)
        W_sum = over_kernel(W)
        xW = gather(x, W, geometry)
        x_sum = number(x, torch.float64)
        walk(x_sum_kernel, x, [x, x_sum], [], geometry)
        m = number(g, rounded_type(x))
        dh = room(g)
        dE = number(g, torch.float64)
        dx_sum_sum = number(g, torch.float64)
        # centred-convolution-without-bias/norm-like/define-m
        walk(
            m_dh_dE_dx_sum_sum_kernel, g, [g, f, W_sum, xW, m, dh, dE, dx_sum_sum], [x_sum], geometry,
            seen=(x, W), any_far=any_far, near=near, patch_entries=patch_entries, kappa=kappa
        )
        if wanted[1]:
            dh_m = over_samples(dh * m)
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dh_x = kernel_gradient(dh, x, geometry)
            dW_sum = -dh_m
            dW = dh_x + dW_sum.unsqueeze(2)  # centred-convolution-without-bias/norm-like/backward-dW
        dx = room(x)
        # centred-convolution-without-bias/norm-like/backward-dx
        walk(dx_kernel, x, [x, dh_W, dx], [dE, dx_sum_sum], geometry)
    else:
        patch_entries = x.shape[2] * math.prod(geometry.kernel)
        near = far_scale(kappa, x)
        W_sum = over_kernel(W)
        x_sum = number(x, torch.float64)
        walk(x_sum_kernel, x, [x, x_sum], [], geometry)
        m = number(g, rounded_type(x))
        dh = room(g)
        dE = number(g, torch.float64)
        dx_sum_sum = number(g, torch.float64)
        # centred-convolution-without-bias/norm-like/define-m
        walk(
            kept_m_dh_dE_dx_sum_sum_kernel, g, [g, f, h, W_sum, m, dh, dE, dx_sum_sum], [x_sum], geometry,
            any_far=any_far, near=near, patch_entries=patch_entries, kappa=kappa
        )
        if wanted[1]:
            dh_m = over_samples(dh * m)
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dh_x = kernel_gradient(dh, x, geometry)
            dW_sum = -dh_m
            dW = dh_x + dW_sum.unsqueeze(2)  # centred-convolution-without-bias/norm-like/backward-dW
        dx = room(x)
        # centred-convolution-without-bias/norm-like/backward-dx
        walk(dx_kernel, x, [x, dh_W, dx], [dE, dx_sum_sum], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(any_far, dW, g, f, x, m, geometry, False)
    return dx, dW.to(x.dtype)


_forward = register(
    "triton_patch_norm_like_centred_without_bias",
    "(Tensor x, Tensor W, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "triton_patch_norm_like_centred_without_bias_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor f, Tensor? h, float kappa, int[] numbers, bool[] wanted) "
    "-> (Tensor, Tensor)",
    backward,
    backward,
)
_passes = PatchPasses(plain.PatchNormLikeCentredWithoutBias, plain.PatchNormLikeCentredWithoutBias, 2, (0, 1))
derive(_forward, _backward, _passes)


class PatchNormLikeCentredWithoutBiasReverse(plain.PatchNormLikeCentredWithoutBiasReverse):
    """The map of ``x`` and ``W``, kappa, the geometry and whether to recompute, by the kernels.

    Kept values and batching are the base class's. Reverse mode only, which is what ``torch.compile`` can trace.
    """

    @staticmethod
    def forward(
        x: Tensor, W: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and the kept ``h`` or None."""
        if not takes(x, W):
            found: tuple[Tensor, Tensor, Tensor | None]
            found = plain.PatchNormLikeCentredWithoutBiasReverse.forward(x, W, kappa, geometry, recompute)
            return found
        z, f, h = _forward(x, W, kappa, as_numbers(geometry), recompute)
        return z, f, None if recompute else h

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x`` and ``W``; None where not needed and for settings."""
        kept = x, W, f, h = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if g is None or torch.is_grad_enabled() or not wanted[0] or not takes(g, x, W):
            known: tuple[Tensor | None, ...]
            known = plain.PatchNormLikeCentredWithoutBiasReverse.backward(Unpacked(ctx, kept), g, *_)
            return known
        found = _backward(g, x, W, f, h, ctx.kappa, as_numbers(ctx.geometry), wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None, None, None)


class PatchNormLikeCentredWithoutBias(
    PatchNormLikeCentredWithoutBiasReverse, plain.PatchNormLikeCentredWithoutBias
):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchNormLikeCentredWithoutBiasReverse.backward))
