"""norm-like (normalising) convolution of centred patches without a bias on CUDA, around torch's convolutions.

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

The kernels are in ``patch_norm_like_centred_without_bias.cu``. Squares are first summed over the channels, then this
map over patches, in the kernel that needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_norm_like_centred_without_bias``.

Derivation (SHA-256 of the map): 4cb6cf6b3cee09b224b2f6960e353fae7f6c058286ce4e8ca2d3b041be621b01
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
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
from .runtime.launch import Source
from .runtime.patches import again_if_far, walk

KERNELS = Source(Path(__file__).with_suffix(".cu"))


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
        walk(
            KERNELS, "patch_norm_like_centred_without_bias_x_sum_xx", x, [x], [x_sum, xx], [], geometry,
            floor
        )
        f = number(xW, rounded_type(x))
        z = room(xW)
        # centred-convolution-without-bias/norm-like/define-f
        # centred-convolution-without-bias/norm-like/forward
        walk(
            KERNELS, "patch_norm_like_centred_without_bias_f_z", xW, [W_sum, xW, z], [f], [x_sum, xx],
            geometry, kappa, LEFTOVER, patch_entries, near, seen=(x, W)
        )
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    patch_entries = x.shape[2] * math.prod(geometry.kernel)
    near = far_scale(kappa, x)
    W_sum = over_kernel(W)
    xW = gather(x, W, geometry)
    x_sum = number(x, torch.float64)
    xx = number(x, torch.float64)
    walk(
        KERNELS, "patch_norm_like_centred_without_bias_x_sum_xx", x, [x], [x_sum, xx], [], geometry,
        floor
    )
    f = number(xW, rounded_type(x))
    h = room(xW)
    z = room(xW)
    # centred-convolution-without-bias/norm-like/define-f
    # centred-convolution-without-bias/norm-like/forward
    walk(
        KERNELS, "patch_norm_like_centred_without_bias_f_h_z", xW, [W_sum, xW, h, z], [f], [x_sum, xx],
        geometry, kappa, LEFTOVER, patch_entries, near, seen=(x, W)
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
        walk(KERNELS, "patch_norm_like_centred_without_bias_x_sum", x, [x], [x_sum], [], geometry)
        m = number(g, rounded_type(x))
        dh = room(g)
        dE = number(g, torch.float64)
        dx_sum_sum = number(g, torch.float64)
        # centred-convolution-without-bias/norm-like/define-m
        walk(
            KERNELS, "patch_norm_like_centred_without_bias_m_dh_dE_dx_sum_sum", g, [g, W_sum, xW, dh], [f,
            m, dE, dx_sum_sum], [x_sum], geometry, kappa, patch_entries, near, seen=(x, W), any_far=any_far
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
        walk(
            KERNELS, "patch_norm_like_centred_without_bias_dx", x, [x, dh_W, dx], [], [dE, dx_sum_sum],
            geometry
        )
    else:
        patch_entries = x.shape[2] * math.prod(geometry.kernel)
        near = far_scale(kappa, x)
        W_sum = over_kernel(W)
        x_sum = number(x, torch.float64)
        walk(KERNELS, "patch_norm_like_centred_without_bias_x_sum", x, [x], [x_sum], [], geometry)
        m = number(g, rounded_type(x))
        dh = room(g)
        dE = number(g, torch.float64)
        dx_sum_sum = number(g, torch.float64)
        # centred-convolution-without-bias/norm-like/define-m
        walk(
            KERNELS, "patch_norm_like_centred_without_bias_kept_m_dh_dE_dx_sum_sum", g, [g, h, W_sum, dh],
            [f, m, dE, dx_sum_sum], [x_sum], geometry, kappa, patch_entries, near, any_far=any_far
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
        walk(
            KERNELS, "patch_norm_like_centred_without_bias_dx", x, [x, dh_W, dx], [], [dE, dx_sum_sum],
            geometry
        )
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(KERNELS, "patch_norm_like_centred_without_bias_weights_again", any_far, dW, g, f, x, m, geometry, False)
    return dx, dW.to(x.dtype)


_forward = register(
    "cuda_patch_norm_like_centred_without_bias",
    "(Tensor x, Tensor W, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "cuda_patch_norm_like_centred_without_bias_backward",
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
