"""norm-like (normalising) transposed convolution without a bias on the CPU: one call for each pass.

    z[s,g,o,qh,qw] = f[s,g,qh,qw]*sum[c,kh,kw,ph,pw](W[g,c,o,kh,kw]*x[s,g,c,ph,pw]*delta(dilationh*kh + strideh*ph -
        paddingh, qh)*delta(dilationw*kw + stridew*pw - paddingw, qw))
    f[s,g,qh,qw] = sqrt(kappa)/sqrt(E[s,g,qh,qw])
    E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew
        - dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
        dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew +
        paddingw/stridew - dilationw*l/stridew, Lw))

The kernels are in ``patch_norm_like_transposed_without_bias.cpp``. They keep only the scale and recompute nothing, for
any value of ``recompute``: see ``runtime/patch_backward.h``. Tensors that they do not support are left to
``kernels.torch.patch_norm_like_transposed_without_bias``.

Derivation (SHA-256 of the map): 1200751a61d37b6d171ffc7ac5d69cf15d5bc3bfb09626a07472a7b6165fdac4
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
from ..torch import patch_norm_like_transposed_without_bias as plain
from .runtime.launch import Source
from .runtime.patches import HostPasses, backward, fits, forward, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"))


class PatchNormLikeTransposedWithoutBias(plain.PatchNormLikeTransposedWithoutBias):
    """The map of ``x`` and ``W``, kappa, the geometry and whether to recompute, by kernels in C++.

    Kept values, tangents and batching are the base class's.
    """

    @staticmethod
    @read_once
    def forward(
        x: Tensor, W: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and None instead of a kept ``h``."""
        if not fits(x, W, None, geometry, True):
            return plain.PatchNormLikeTransposedWithoutBias.forward(x, W, kappa, geometry, recompute)
        # grouped-transposed-convolution-without-bias/norm-like/define-E
        # grouped-transposed-convolution-without-bias/norm-like/define-f
        # grouped-transposed-convolution-without-bias/norm-like/forward
        z, f = forward(KERNELS, "patch_norm_like_transposed_without_bias_forward", x, W, None, kappa, geometry, True)
        return z, f, None

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x`` and ``W``; None where not needed and for settings."""
        kept = ctx.saved_tensors
        x, W, f = kept[:3]
        if g is None or torch.is_grad_enabled() or not fits(x, W, None, ctx.geometry, True, g, f):
            return plain.PatchNormLikeTransposedWithoutBias.backward(Unpacked(ctx, kept), g, *_)
        settings = ctx.kappa, ctx.geometry, ctx.needs_input_grad[:3], True
        # grouped-transposed-convolution-without-bias/norm-like/backward-dW
        # grouped-transposed-convolution-without-bias/norm-like/backward-dx
        dx, dW, _ = backward(KERNELS, "patch_norm_like_transposed_without_bias_backward", g, x, W, None, f, *settings)
        return dx, dW, None, None, None


OPERATOR = register_map(
    "cpp_patch_norm_like_transposed_without_bias",
    PatchSignature(("x", "W"), ("x", "W")),
    HostPasses(PatchNormLikeTransposedWithoutBias, plain.PatchNormLikeTransposedWithoutBias, 2, (0, 1), True),
    HostPasses(plain.PatchNormLikeTransposedWithoutBias, plain.PatchNormLikeTransposedWithoutBias, 2, (0, 1), True),
)


class PatchNormLikeTransposedWithoutBiasReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    forward = staticmethod(plain.PatchNormLikeTransposedWithoutBiasReverse.forward)
    suits = staticmethod(suits)

    @staticmethod
    def apply(x: Tensor, W: Tensor, kappa: float, geometry: Geometry, recompute: bool) -> tuple[Tensor, ...]:
        """Return the output and the scale; nothing else is kept."""
        return OPERATOR(x, W, kappa, as_numbers(geometry), recompute)
