"""norm-like (normalising) convolution without a bias on CUDA, around torch's convolutions.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[c,kh,kw](W[g,o,c,kh,kw]*x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw
        + stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw -
        paddingw, Lw))
    f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw])
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw))

The kernels are in ``patch_norm_like_without_bias.cu``. Squares are first summed over the channels, then this map over
patches, in the kernel that needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_norm_like_without_bias``.

Derivation (SHA-256 of the map): a2894f2ce09d052dca6ef7da9da6f35081a79c7edf04b3e61e7db3c8a38db464
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
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
from ...runtime.patches import Geometry, gather, kernel_gradient, rounded_type, scatter
from ..torch import patch_norm_like_without_bias as plain
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
        near = far_scale(kappa, x)
        h = gather(x, W, geometry)
        xx = number(x, torch.float64)
        walk(KERNELS, "patch_norm_like_without_bias_xx", x, [x], [xx], [], geometry, floor)
        f = number(h, rounded_type(x))
        z = room(h)
        # grouped-convolution-without-bias/norm-like/define-f
        # grouped-convolution-without-bias/norm-like/forward
        walk(
            KERNELS, "patch_norm_like_without_bias_f_z", h, [h, z], [f], [xx], geometry, kappa, near,
            seen=(x, W)
        )
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    near = far_scale(kappa, x)
    h = gather(x, W, geometry)
    xx = number(x, torch.float64)
    walk(KERNELS, "patch_norm_like_without_bias_xx", x, [x], [xx], [], geometry, floor)
    f = number(h, rounded_type(x))
    z = room(h)
    # grouped-convolution-without-bias/norm-like/define-f
    # grouped-convolution-without-bias/norm-like/forward
    walk(
        KERNELS, "patch_norm_like_without_bias_f_z", h, [h, z], [f], [xx], geometry, kappa, near,
        seen=(x, W)
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
        near = far_scale(kappa, x)
        h = gather(x, W, geometry)
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_norm_like_without_bias_dh_dE", g, [g, h, dh], [f, dE], [], geometry, kappa,
            near, seen=(x, W), any_far=any_far
        )
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution-without-bias/norm-like/backward-dW
        dx = room(x)
        # grouped-convolution-without-bias/norm-like/backward-dx
        walk(KERNELS, "patch_norm_like_without_bias_dx", x, [x, dh_W, dx], [], [dE], geometry)
    else:
        near = far_scale(kappa, x)
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_norm_like_without_bias_dh_dE", g, [g, h, dh], [f, dE], [], geometry, kappa,
            near, seen=(x, W), any_far=any_far
        )
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution-without-bias/norm-like/backward-dW
        dx = room(x)
        # grouped-convolution-without-bias/norm-like/backward-dx
        walk(KERNELS, "patch_norm_like_without_bias_dx", x, [x, dh_W, dx], [], [dE], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(KERNELS, "patch_norm_like_without_bias_weights_again", any_far, dW, g, f, x, None, geometry, False)
    return dx, dW.to(x.dtype)


_forward = register(
    "cuda_patch_norm_like_without_bias",
    "(Tensor x, Tensor W, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "cuda_patch_norm_like_without_bias_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor f, Tensor? h, float kappa, int[] numbers, bool[] wanted) "
    "-> (Tensor, Tensor)",
    backward,
    backward,
)
_passes = PatchPasses(plain.PatchNormLikeWithoutBias, plain.PatchNormLikeWithoutBias, 2, (0, 1))
derive(_forward, _backward, _passes)


class PatchNormLikeWithoutBiasReverse(plain.PatchNormLikeWithoutBiasReverse):
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
            found = plain.PatchNormLikeWithoutBiasReverse.forward(x, W, kappa, geometry, recompute)
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
            known = plain.PatchNormLikeWithoutBiasReverse.backward(Unpacked(ctx, kept), g, *_)
            return known
        found = _backward(g, x, W, f, h, ctx.kappa, as_numbers(ctx.geometry), wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None, None, None)


class PatchNormLikeWithoutBias(PatchNormLikeWithoutBiasReverse, plain.PatchNormLikeWithoutBias):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchNormLikeWithoutBiasReverse.backward))
