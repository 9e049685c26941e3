"""affine-like (non-normalising) transposed convolution on the CPU: one call for each pass.

    z[s,g,o,qh,qw] = f[s,g,qh,qw]*(sum[c,kh,kw,ph,pw](W[g,c,o,kh,kw]*x[s,g,c,ph,pw]*delta(dilationh*kh + strideh*ph -
        paddingh, qh)*delta(dilationw*kw + stridew*pw - paddingw, qw)) + b[g,o])
    f[s,g,qh,qw] = sqrt(kappa)/sqrt(E[s,g,qh,qw] + 1)
    E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew
        - dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
        dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew +
        paddingw/stridew - dilationw*l/stridew, Lw))

The kernels are in ``patch_affine_like_transposed.cpp``. They keep only the scale and recompute nothing, for any value
of ``recompute``: see ``runtime/patch_backward.h``. Tensors that they do not support are left to
``kernels.torch.patch_affine_like_transposed``.

Derivation (SHA-256 of the map): f78ad2981ff98da708519563dc6fb6747786d6219f7dd5ca8c3e758078d52452
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import Unpacked, outside_autocast
from ...runtime.operators import register_map
from ...runtime.patch_operators import PatchSignature
from ...runtime.patch_places import as_numbers
from ...runtime.patches import Geometry
from ...runtime.rows import read_once
from ..torch import patch_affine_like_transposed as plain
from .runtime.launch import Source
from .runtime.patches import HostPasses, backward, fits, forward, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"))


class PatchAffineLikeTransposed(plain.PatchAffineLikeTransposed):
    """The map of ``x``, ``W`` and ``b``, kappa, the geometry and whether to recompute, by kernels in C++.

    Kept values, tangents and batching are the base class's.
    """

    @staticmethod
    @read_once
    def forward(
        x: Tensor, W: Tensor, b: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and None instead of a kept ``h``."""
        if not fits(x, W, b, geometry, True):
            return plain.PatchAffineLikeTransposed.forward(x, W, b, kappa, geometry, recompute)
        # grouped-transposed-convolution/affine-like/define-E
        # grouped-transposed-convolution/affine-like/define-f
        # grouped-transposed-convolution/affine-like/forward
        z, f = forward(KERNELS, "patch_affine_like_transposed_forward", x, W, b, kappa, geometry, True)
        return z, f, None

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``; None where not needed and for settings."""
        kept = ctx.saved_tensors
        x, W, b, f = kept[:4]
        if g is None or torch.is_grad_enabled() or not fits(x, W, b, ctx.geometry, True, g, f):
            return plain.PatchAffineLikeTransposed.backward(Unpacked(ctx, kept), g, *_)
        settings = ctx.kappa, ctx.geometry, ctx.needs_input_grad[:3], True
        # grouped-transposed-convolution/affine-like/backward-db
        # grouped-transposed-convolution/affine-like/backward-dW
        # grouped-transposed-convolution/affine-like/backward-dx
        dx, dW, db = backward(KERNELS, "patch_affine_like_transposed_backward", g, x, W, b, f, *settings)
        return dx, dW, db, None, None, None


OPERATOR = register_map(
    "cpp_patch_affine_like_transposed",
    PatchSignature(("x", "W", "b"), ("x", "W", "b")),
    HostPasses(PatchAffineLikeTransposed, plain.PatchAffineLikeTransposed, 3, (0, 1, 2), True),
    HostPasses(plain.PatchAffineLikeTransposed, plain.PatchAffineLikeTransposed, 3, (0, 1, 2), True),
)


class PatchAffineLikeTransposedReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    forward = staticmethod(plain.PatchAffineLikeTransposedReverse.forward)
    suits = staticmethod(suits)

    @staticmethod
    def apply(x: Tensor, W: Tensor, b: Tensor, kappa: float, geometry: Geometry, recompute: bool) -> tuple[Tensor, ...]:
        """Return the output and the scale; nothing else is kept."""
        return OPERATOR(x, W, b, kappa, as_numbers(geometry), recompute)
