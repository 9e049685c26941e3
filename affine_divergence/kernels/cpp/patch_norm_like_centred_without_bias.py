"""norm-like (normalising) convolution of centred patches without a bias on the CPU: one call for each pass.

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

The kernels are in ``patch_norm_like_centred_without_bias.cpp``. They keep only the scale and recompute nothing, for any
value of ``recompute``: see ``runtime/patch_backward.h``. Tensors that they do not support are left to
``kernels.torch.patch_norm_like_centred_without_bias``.

Derivation (SHA-256 of the map): 4cb6cf6b3cee09b224b2f6960e353fae7f6c058286ce4e8ca2d3b041be621b01
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
from ..torch import patch_norm_like_centred_without_bias as plain
from .runtime.launch import Source
from .runtime.patches import HostPasses, backward, fits, forward, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"))


class PatchNormLikeCentredWithoutBias(plain.PatchNormLikeCentredWithoutBias):
    """The map of ``x`` and ``W``, kappa, the geometry and whether to recompute, by kernels in C++.

    Kept values, tangents and batching are the base class's.
    """

    @staticmethod
    @read_once
    def forward(
        x: Tensor, W: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and None instead of a kept ``h``."""
        if not fits(x, W, None, geometry, False):
            return plain.PatchNormLikeCentredWithoutBias.forward(x, W, kappa, geometry, recompute)
        # centred-convolution-without-bias/norm-like/define-m
        # centred-convolution-without-bias/norm-like/define-E
        # centred-convolution-without-bias/norm-like/define-f
        # centred-convolution-without-bias/norm-like/define-m
        # centred-convolution-without-bias/norm-like/forward
        z, f = forward(KERNELS, "patch_norm_like_centred_without_bias_forward", x, W, None, kappa, geometry, False)
        return z, f, None

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x`` and ``W``; None where not needed and for settings."""
        kept = ctx.saved_tensors
        x, W, f = kept[:3]
        if g is None or torch.is_grad_enabled() or not fits(x, W, None, ctx.geometry, False, g, f):
            return plain.PatchNormLikeCentredWithoutBias.backward(Unpacked(ctx, kept), g, *_)
        settings = ctx.kappa, ctx.geometry, ctx.needs_input_grad[:3], False
        # centred-convolution-without-bias/norm-like/define-m
        # centred-convolution-without-bias/norm-like/backward-dx
        # centred-convolution-without-bias/norm-like/backward-dW
        dx, dW, _ = backward(KERNELS, "patch_norm_like_centred_without_bias_backward", g, x, W, None, f, *settings)
        return dx, dW, None, None, None


OPERATOR = register_map(
    "cpp_patch_norm_like_centred_without_bias",
    PatchSignature(("x", "W"), ("x", "W")),
    HostPasses(PatchNormLikeCentredWithoutBias, plain.PatchNormLikeCentredWithoutBias, 2, (0, 1), False),
    HostPasses(plain.PatchNormLikeCentredWithoutBias, plain.PatchNormLikeCentredWithoutBias, 2, (0, 1), False),
)


class PatchNormLikeCentredWithoutBiasReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    forward = staticmethod(plain.PatchNormLikeCentredWithoutBiasReverse.forward)
    suits = staticmethod(suits)

    @staticmethod
    def apply(x: Tensor, W: Tensor, kappa: float, geometry: Geometry, recompute: bool) -> tuple[Tensor, ...]:
        """Return the output and the scale; nothing else is kept."""
        return OPERATOR(x, W, kappa, as_numbers(geometry), recompute)
