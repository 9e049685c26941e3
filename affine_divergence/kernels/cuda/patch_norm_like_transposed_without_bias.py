"""norm-like (normalising) transposed convolution without a bias on CUDA, around torch's convolutions.

    z[s,g,o,qh,qw] = f[s,g,qh,qw]*sum[c,kh,kw,ph,pw](W[g,c,o,kh,kw]*x[s,g,c,ph,pw]*delta(dilationh*kh + strideh*ph -
        paddingh, qh)*delta(dilationw*kw + stridew*pw - paddingw, qw))
    f[s,g,qh,qw] = sqrt(kappa)/sqrt(E[s,g,qh,qw])
    E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew
        - dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
        dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew +
        paddingw/stridew - dilationw*l/stridew, Lw))

The kernels are in ``patch_norm_like_transposed_without_bias.cu``. Squares are first summed over the channels, then this
map over patches, in the kernel that needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_norm_like_transposed_without_bias``.

Derivation (SHA-256 of the map): 1200751a61d37b6d171ffc7ac5d69cf15d5bc3bfb09626a07472a7b6165fdac4
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
from ...runtime.patches import (
    Geometry,
    gather,
    kernel_gradient,
    reach,
    rounded_type,
    scatter,
)
from ..torch import patch_norm_like_transposed_without_bias as plain
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
        h = scatter(x, W, geometry, reach(x.shape[3:], geometry))
        xx = number(x, torch.float64)
        walk(KERNELS, "patch_norm_like_transposed_without_bias_xx", x, [x], [xx], [], geometry, floor)
        f = number(h, rounded_type(x))
        z = room(h)
        # grouped-transposed-convolution-without-bias/norm-like/define-f
        # grouped-transposed-convolution-without-bias/norm-like/forward
        walk(
            KERNELS, "patch_norm_like_transposed_without_bias_f_z", h, [h, z], [f], [xx], geometry, kappa,
            near, seen=(x, W.transpose(1, 2))
        )
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    near = far_scale(kappa, x)
    h = scatter(x, W, geometry, reach(x.shape[3:], geometry))
    xx = number(x, torch.float64)
    walk(KERNELS, "patch_norm_like_transposed_without_bias_xx", x, [x], [xx], [], geometry, floor)
    f = number(h, rounded_type(x))
    z = room(h)
    # grouped-transposed-convolution-without-bias/norm-like/define-f
    # grouped-transposed-convolution-without-bias/norm-like/forward
    walk(
        KERNELS, "patch_norm_like_transposed_without_bias_f_z", h, [h, z], [f], [xx], geometry, kappa,
        near, seen=(x, W.transpose(1, 2))
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
        h = scatter(x, W, geometry, g.shape[3:])
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_norm_like_transposed_without_bias_dh_dE", g, [g, h, dh], [f, dE], [], geometry,
            kappa, near, seen=(x, W.transpose(1, 2)), any_far=any_far
        )
        dh_W = gather(dh, W, geometry, size=x.shape[3:])
        if wanted[1]:
            # grouped-transposed-convolution-without-bias/norm-like/backward-dW
            dW = kernel_gradient(x, dh, geometry)
        dx = room(x)
        # grouped-transposed-convolution-without-bias/norm-like/backward-dx
        walk(KERNELS, "patch_norm_like_transposed_without_bias_dx", x, [x, dh_W, dx], [], [dE], geometry)
    else:
        near = far_scale(kappa, x)
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_norm_like_transposed_without_bias_dh_dE", g, [g, h, dh], [f, dE], [], geometry,
            kappa, near, seen=(x, W.transpose(1, 2)), any_far=any_far
        )
        dh_W = gather(dh, W, geometry, size=x.shape[3:])
        if wanted[1]:
            # grouped-transposed-convolution-without-bias/norm-like/backward-dW
            dW = kernel_gradient(x, dh, geometry)
        dx = room(x)
        # grouped-transposed-convolution-without-bias/norm-like/backward-dx
        walk(KERNELS, "patch_norm_like_transposed_without_bias_dx", x, [x, dh_W, dx], [], [dE], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(KERNELS, "patch_norm_like_transposed_without_bias_weights_again", any_far, dW, g, f, x, None, geometry, True)
    return dx, dW.to(x.dtype)


_forward = register(
    "cuda_patch_norm_like_transposed_without_bias",
    "(Tensor x, Tensor W, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "cuda_patch_norm_like_transposed_without_bias_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor f, Tensor? h, float kappa, int[] numbers, bool[] wanted) "
    "-> (Tensor, Tensor)",
    backward,
    backward,
)
_passes = PatchPasses(plain.PatchNormLikeTransposedWithoutBias, plain.PatchNormLikeTransposedWithoutBias, 2, (0, 1))
derive(_forward, _backward, _passes)


class PatchNormLikeTransposedWithoutBiasReverse(plain.PatchNormLikeTransposedWithoutBiasReverse):
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
            found = plain.PatchNormLikeTransposedWithoutBiasReverse.forward(x, W, kappa, geometry, recompute)
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
            known = plain.PatchNormLikeTransposedWithoutBiasReverse.backward(Unpacked(ctx, kept), g, *_)
            return known
        found = _backward(g, x, W, f, h, ctx.kappa, as_numbers(ctx.geometry), wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None, None, None)


class PatchNormLikeTransposedWithoutBias(
    PatchNormLikeTransposedWithoutBiasReverse, plain.PatchNormLikeTransposedWithoutBias
):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchNormLikeTransposedWithoutBiasReverse.backward))
