"""affine-like (non-normalising) transposed convolution on CUDA, around torch's convolutions.

    z[s,g,o,qh,qw] = f[s,g,qh,qw]*(sum[c,kh,kw,ph,pw](W[g,c,o,kh,kw]*x[s,g,c,ph,pw]*delta(dilationh*kh + strideh*ph -
        paddingh, qh)*delta(dilationw*kw + stridew*pw - paddingw, qw)) + b[g,o])
    f[s,g,qh,qw] = sqrt(kappa)/sqrt(E[s,g,qh,qw] + 1)
    E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew
        - dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
        dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew +
        paddingw/stridew - dilationw*l/stridew, Lw))

The kernels are in ``patch_affine_like_transposed.cu``. Squares are first summed over the channels, then this map over
patches, in the kernel that needs the sums. Float16, second derivatives, tangents and empty tensors are left to
``kernels.torch.patch_affine_like_transposed``.

Derivation (SHA-256 of the map): f78ad2981ff98da708519563dc6fb6747786d6219f7dd5ca8c3e758078d52452
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
    reach,
    rounded_type,
    scatter,
)
from ..torch import patch_affine_like_transposed as plain
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
        xW = scatter(x, W, geometry, reach(x.shape[3:], geometry))
        xx = number(x, torch.float64)
        walk(KERNELS, "patch_affine_like_transposed_xx", x, [x], [xx], [], geometry, floor)
        f = number(xW, rounded_type(x))
        z = room(xW)
        # grouped-transposed-convolution/affine-like/define-f
        # grouped-transposed-convolution/affine-like/forward
        walk(
            KERNELS, "patch_affine_like_transposed_f_z", xW, [b, xW, z], [f], [xx], geometry, kappa, near,
            seen=(x, W.transpose(1, 2))
        )
        return z, f, x.new_empty(0)
    floor = smallest_sum(x)
    near = far_scale(kappa, x)
    xW = scatter(x, W, geometry, reach(x.shape[3:], geometry))
    xx = number(x, torch.float64)
    walk(KERNELS, "patch_affine_like_transposed_xx", x, [x], [xx], [], geometry, floor)
    f = number(xW, rounded_type(x))
    h = room(xW)
    z = room(xW)
    # grouped-transposed-convolution/affine-like/define-f
    # grouped-transposed-convolution/affine-like/forward
    walk(
        KERNELS, "patch_affine_like_transposed_f_h_z", xW, [b, xW, h, z], [f], [xx], geometry, kappa,
        near, seen=(x, W.transpose(1, 2))
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
        xW = scatter(x, W, geometry, g.shape[3:])
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_affine_like_transposed_dh_dE", g, [g, b, xW, dh], [f, dE], [], geometry, kappa,
            near, seen=(x, W.transpose(1, 2)), any_far=any_far
        )
        if wanted[2]:
            db = over_samples(dh)  # grouped-transposed-convolution/affine-like/backward-db
        dh_W = gather(dh, W, geometry, size=x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(x, dh, geometry)  # grouped-transposed-convolution/affine-like/backward-dW
        dx = room(x)
        # grouped-transposed-convolution/affine-like/backward-dx
        walk(KERNELS, "patch_affine_like_transposed_dx", x, [x, dh_W, dx], [], [dE], geometry)
    else:
        near = far_scale(kappa, x)
        dh = room(g)
        dE = number(g, torch.float64)
        walk(
            KERNELS, "patch_affine_like_transposed_kept_dh_dE", g, [g, h, dh], [f, dE], [], geometry,
            kappa, near, any_far=any_far
        )
        if wanted[2]:
            db = over_samples(dh)  # grouped-transposed-convolution/affine-like/backward-db
        dh_W = gather(dh, W, geometry, size=x.shape[3:])
        if wanted[1]:
            dW = kernel_gradient(x, dh, geometry)  # grouped-transposed-convolution/affine-like/backward-dW
        dx = room(x)
        # grouped-transposed-convolution/affine-like/backward-dx
        walk(KERNELS, "patch_affine_like_transposed_dx", x, [x, dh_W, dx], [], [dE], geometry)
    if wanted[1]:
        dW = dW.to(x.dtype)
        again_if_far(KERNELS, "patch_affine_like_transposed_weights_again", any_far, dW, g, f, x, None, geometry, True)
    return dx, dW.to(x.dtype), db.to(x.dtype)


_forward = register(
    "cuda_patch_affine_like_transposed",
    "(Tensor x, Tensor W, Tensor b, float kappa, int[] numbers, bool recompute) "
    "-> (Tensor, Tensor, Tensor)",
    forward,
    forward,  # run on tensors without values, the same lines give the shapes
)
_backward = register(
    "cuda_patch_affine_like_transposed_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor b, Tensor f, Tensor? h, float kappa, int[] numbers, bool[] wanted) "
    "-> (Tensor, Tensor, Tensor)",
    backward,
    backward,
)
_passes = PatchPasses(plain.PatchAffineLikeTransposed, plain.PatchAffineLikeTransposed, 3, (0, 1, 2))
derive(_forward, _backward, _passes)


class PatchAffineLikeTransposedReverse(plain.PatchAffineLikeTransposedReverse):
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
            found = plain.PatchAffineLikeTransposedReverse.forward(x, W, b, kappa, geometry, recompute)
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
            known = plain.PatchAffineLikeTransposedReverse.backward(Unpacked(ctx, kept), g, *_)
            return known
        found = _backward(g, x, W, b, f, h, ctx.kappa, as_numbers(ctx.geometry), wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None, None, None)


class PatchAffineLikeTransposed(PatchAffineLikeTransposedReverse, plain.PatchAffineLikeTransposed):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchAffineLikeTransposedReverse.backward))
