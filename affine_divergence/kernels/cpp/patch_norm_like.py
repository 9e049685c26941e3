"""norm-like (normalising) convolution on the CPU: one call for each pass.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[j,k,l](W[g,o,j,k,l]*x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l +
        stridew*pw - paddingw]*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw -
        paddingw, Lw)) + b[g,o]
    f[s,g,ph,pw] = sqrt(kappa - 1)/sqrt(E[s,g,ph,pw])
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw))

The kernels are in ``patch_norm_like.cpp``. They keep only the scale and recompute nothing, for any value of
``recompute``: see ``runtime/patch_backward.h``. Tensors that they do not support are left to
``kernels.torch.patch_norm_like``.

Derivation (SHA-256 of the map): dce1c5267193894dc95200851bf4e9735dabd0ac0467687ecdcb272401e05e60
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
from ..torch import patch_norm_like as plain
from .runtime.launch import Source
from .runtime.patches import HostPasses, backward, fits, forward, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"))


class PatchNormLike(plain.PatchNormLike):
    """The map of ``x``, ``W`` and ``b``, kappa, the geometry and whether to recompute, by kernels in C++.

    Kept values, tangents and batching are the base class's.
    """

    @staticmethod
    @read_once
    def forward(
        x: Tensor, W: Tensor, b: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and None instead of a kept ``h``."""
        if not fits(x, W, b, geometry, False):
            return plain.PatchNormLike.forward(x, W, b, kappa, geometry, recompute)
        # grouped-convolution/norm-like/define-E
        # grouped-convolution/norm-like/define-f
        # grouped-convolution/norm-like/forward
        z, f = forward(KERNELS, "patch_norm_like_forward", x, W, b, kappa, geometry, False)
        return z, f, None

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``; None where not needed and for settings."""
        kept = ctx.saved_tensors
        x, W, f = kept[:3]
        if g is None or torch.is_grad_enabled() or not fits(x, W, None, ctx.geometry, False, g, f):
            return plain.PatchNormLike.backward(Unpacked(ctx, kept), g, *_)
        settings = ctx.kappa, ctx.geometry, ctx.needs_input_grad[:3], False
        # grouped-convolution/norm-like/backward-db
        # grouped-convolution/norm-like/backward-dW
        # grouped-convolution/norm-like/backward-dx
        dx, dW, db = backward(KERNELS, "patch_norm_like_backward", g, x, W, None, f, *settings)
        return dx, dW, db, None, None, None


OPERATOR = register_map(
    "cpp_patch_norm_like",
    PatchSignature(("x", "W", "b"), ("x", "W")),
    HostPasses(PatchNormLike, plain.PatchNormLike, 3, (0, 1), False),
    HostPasses(plain.PatchNormLike, plain.PatchNormLike, 3, (0, 1), False),
)


class PatchNormLikeReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    forward = staticmethod(plain.PatchNormLikeReverse.forward)
    suits = staticmethod(suits)

    @staticmethod
    def apply(x: Tensor, W: Tensor, b: Tensor, kappa: float, geometry: Geometry, recompute: bool) -> tuple[Tensor, ...]:
        """Return the output and the scale; nothing else is kept."""
        return OPERATOR(x, W, b, kappa, as_numbers(geometry), recompute)
