"""affine-like (non-normalising) convolution on CUDA, around torch's convolutions.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*(sum[c,kh,kw](W[g,o,c,kh,kw]*x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw
        + stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw -
        paddingw, Lw)) + b[g,o])
    f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw] + 1)
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw))

The kernels are in ``patch_affine_like.cu``. Squares are first summed over the channels, then this map over patches, in
the kernel that needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_affine_like``.

Derivation (SHA-256 of the map): 0e9d203590b39dc0e417d3e839220ffdcaaece6ee5e9af8d6c0f3cf226fc0494
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
from ..torch import patch_affine_like as plain
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
        xW = gather(x, W, geometry)
        xx = number(x, torch.float64)
        walk(KERNELS, "patch_affine_like_xx", x, [x], [xx], [], geometry, floor)
        f = number(xW, rounded_type(x))
        z = room(xW)
        # grouped-convolution/affine-like/define-f
        # grouped-convolution/affine-like/forward
        walk(KERNELS, "patch_affine_like_f_z", xW, [b, xW, z], [f], [xx], geometry, kappa, near, seen=(x, W))
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    near = far_scale(kappa, x)
    xW = gather(x, W, geometry)
    xx = number(x, torch.float64)
    walk(KERNELS, "patch_affine_like_xx", x, [x], [xx], [], geometry, floor)
    f = number(xW, rounded_type(x))
    h = room(xW)
    z = room(xW)
    # grouped-convolution/affine-like/define-f
    # grouped-convolution/affine-like/forward
    walk(
        KERNELS, "patch_affine_like_f_h_z", xW, [b, xW, h, z], [f], [xx], geometry, kappa, near,
        seen=(x, W)
    )
    return z, f, h


def backward(
    g: Tensor,
    x: Tensor,
    W: Tensor,
    b: Tensor,
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
        xW = gather(x, W, geometry)
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_affine_like_dh_dE", g, [g, b, xW, dh], [f, dE], [], geometry, kappa, near,
            seen=(x, W), any_far=any_far
        )
        if wanted[2]:
            db = over_samples(dh)  # grouped-convolution/affine-like/backward-db
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution/affine-like/backward-dW
        dx = room(x)
        # grouped-convolution/affine-like/backward-dx
        walk(KERNELS, "patch_affine_like_dx", x, [x, dh_W, dx], [], [dE], geometry)
    else:
        near = far_scale(kappa, x)
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_affine_like_kept_dh_dE", g, [g, h, dh], [f, dE], [], geometry, kappa, near,
            any_far=any_far
        )
        if wanted[2]:
            db = over_samples(dh)  # grouped-convolution/affine-like/backward-db
        dh_W = scatter(dh, W, geometry, x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(dh, x, geometry)  # grouped-convolution/affine-like/backward-dW
        dx = room(x)
        # grouped-convolution/affine-like/backward-dx
        walk(KERNELS, "patch_affine_like_dx", x, [x, dh_W, dx], [], [dE], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(KERNELS, "patch_affine_like_weights_again", any_far, dW, g, f, x, None, geometry, False)
    return dx, dW.to(x.dtype), db.to(x.dtype)


_forward = register(
    "cuda_patch_affine_like",
    "(Tensor x, Tensor W, Tensor b, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "cuda_patch_affine_like_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor b, Tensor f, Tensor? h, float kappa, int[] numbers, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor)",
    backward,
    backward,
)
_passes = PatchPasses(plain.PatchAffineLike, plain.PatchAffineLike, 3, (0, 1, 2))
derive(_forward, _backward, _passes)


class PatchAffineLikeReverse(plain.PatchAffineLikeReverse):
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
            found = plain.PatchAffineLikeReverse.forward(x, W, b, kappa, geometry, recompute)
            return found
        z, f, h = _forward(x, W, b, kappa, as_numbers(geometry), recompute)
        return z, f, None if recompute else h

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``; None where not needed and for settings."""
        kept = x, W, b, f, h = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if g is None or torch.is_grad_enabled() or not wanted[0] or not takes(g, x, W, b):
            known: tuple[Tensor | None, ...]
            known = plain.PatchAffineLikeReverse.backward(Unpacked(ctx, kept), g, *_)
            return known
        found = _backward(g, x, W, b, f, h, ctx.kappa, as_numbers(ctx.geometry), wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None, None, None)


class PatchAffineLike(PatchAffineLikeReverse, plain.PatchAffineLike):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchAffineLikeReverse.backward))
