"""norm-like (normalising) convolution on CUDA, around torch's convolutions.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[j,k,l](W[g,o,j,k,l]*x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l +
        stridew*pw - paddingw]*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw -
        paddingw, Lw)) + b[g,o]
    f[s,g,ph,pw] = sqrt(kappa - 1)/sqrt(E[s,g,ph,pw])
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw))

The kernels are in ``patch_norm_like.cu``. Squares are first summed over the channels, then this map over patches, in
the kernel that needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_norm_like``.

Derivation (SHA-256 of the map): dce1c5267193894dc95200851bf4e9735dabd0ac0467687ecdcb272401e05e60
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
    over_samples,
    rounded_type,
    scatter,
)
from ..torch import patch_norm_like as plain
from .runtime.launch import Source
from .runtime.patches import again_if_far, walk

KERNELS = Source(Path(__file__).with_suffix(".cu"))


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
        walk(KERNELS, "patch_norm_like_xx", x, [x], [xx], [], geometry, floor)
        f = number(h, rounded_type(x))
        z = room(h)
        # grouped-convolution/norm-like/define-f
        # grouped-convolution/norm-like/forward
        walk(KERNELS, "patch_norm_like_f_z", h, [b, h, z], [f], [xx], geometry, kappa, near, seen=(x, W))
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    near = far_scale(kappa, x)
    h = gather(x, W, geometry)
    xx = number(x, torch.float64)
    walk(KERNELS, "patch_norm_like_xx", x, [x], [xx], [], geometry, floor)
    f = number(h, rounded_type(x))
    z = room(h)
    # grouped-convolution/norm-like/define-f
    # grouped-convolution/norm-like/forward
    walk(KERNELS, "patch_norm_like_f_z", h, [b, h, z], [f], [xx], geometry, kappa, near, seen=(x, W))
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
            KERNELS, "patch_norm_like_dh_dE", g, [g, h, dh], [f, dE], [], geometry, kappa, near, seen=(x,
            W), any_far=any_far
        )
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution/norm-like/backward-dW
        dx = room(x)
        # grouped-convolution/norm-like/backward-dx
        walk(KERNELS, "patch_norm_like_dx", x, [x, dh_W, dx], [], [dE], geometry)
    else:
        near = far_scale(kappa, x)
        if wanted[2]:
            db = over_samples(g)  # grouped-convolution/norm-like/backward-db
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_norm_like_dh_dE", g, [g, h, dh], [f, dE], [], geometry, kappa, near, seen=(x,
            W), any_far=any_far
        )
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution/norm-like/backward-dW
        dx = room(x)
        # grouped-convolution/norm-like/backward-dx
        walk(KERNELS, "patch_norm_like_dx", x, [x, dh_W, dx], [], [dE], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(KERNELS, "patch_norm_like_weights_again", any_far, dW, g, f, x, None, geometry, False)
    return dx, dW.to(x.dtype), db.to(x.dtype)


_forward = register(
    "cuda_patch_norm_like",
    "(Tensor x, Tensor W, Tensor b, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "cuda_patch_norm_like_backward",
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
