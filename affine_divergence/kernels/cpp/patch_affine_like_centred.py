"""affine-like (non-normalising) convolution of centred patches on the CPU: one call for each pass.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*(sum[c,kh,kw](W[g,o,c,kh,kw]*(x[s,g,c,dilationh*kh + strideh*ph -
        paddingh,dilationw*kw + stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh,
        Lh)*within(dilationw*kw + stridew*pw - paddingw, Lw) - m[s,g,ph,pw])) + b[g,o])
    f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw] + 1)
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw)) -
        C*Kh*Kw*m[s,g,ph,pw]**2
    m[s,g,ph,pw] = sum[c,kh,kw](x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw + stridew*pw -
        paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw - paddingw,
        Lw))/(C*Kh*Kw)

The kernels are in ``patch_affine_like_centred.cpp``. They keep only the scale and recompute nothing, for any value of
``recompute``: see ``runtime/patch_backward.h``. Tensors that they do not support are left to
``kernels.torch.patch_affine_like_centred``.

Derivation (SHA-256 of the map): acad8fe80d7ffe3c16c2ec92de50b8b626fab9731057ce457e450ea1b339bc9c
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
from ..torch import patch_affine_like_centred as plain
from .runtime.launch import Source
from .runtime.patches import HostPasses, backward, fits, forward, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"))


class PatchAffineLikeCentred(plain.PatchAffineLikeCentred):
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
            return plain.PatchAffineLikeCentred.forward(x, W, b, kappa, geometry, recompute)
        # centred-convolution/affine-like/define-m
        # centred-convolution/affine-like/define-E
        # centred-convolution/affine-like/define-f
        # centred-convolution/affine-like/define-m
        # centred-convolution/affine-like/forward
        z, f = forward(KERNELS, "patch_affine_like_centred_forward", x, W, b, kappa, geometry, False)
        return z, f, None

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``; None where not needed and for settings."""
        kept = ctx.saved_tensors
        x, W, b, f = kept[:4]
        if g is None or torch.is_grad_enabled() or not fits(x, W, b, ctx.geometry, False, g, f):
            return plain.PatchAffineLikeCentred.backward(Unpacked(ctx, kept), g, *_)
        settings = ctx.kappa, ctx.geometry, ctx.needs_input_grad[:3], False
        # centred-convolution/affine-like/define-m
        # centred-convolution/affine-like/backward-db
        # centred-convolution/affine-like/backward-dx
        # centred-convolution/affine-like/backward-dW
        dx, dW, db = backward(KERNELS, "patch_affine_like_centred_backward", g, x, W, b, f, *settings)
        return dx, dW, db, None, None, None


OPERATOR = register_map(
    "cpp_patch_affine_like_centred",
    PatchSignature(("x", "W", "b"), ("x", "W", "b")),
    HostPasses(PatchAffineLikeCentred, plain.PatchAffineLikeCentred, 3, (0, 1, 2), False),
    HostPasses(plain.PatchAffineLikeCentred, plain.PatchAffineLikeCentred, 3, (0, 1, 2), False),
)


class PatchAffineLikeCentredReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    forward = staticmethod(plain.PatchAffineLikeCentredReverse.forward)
    suits = staticmethod(suits)

    @staticmethod
    def apply(x: Tensor, W: Tensor, b: Tensor, kappa: float, geometry: Geometry, recompute: bool) -> tuple[Tensor, ...]:
        """Return the output and the scale; nothing else is kept."""
        return OPERATOR(x, W, b, kappa, as_numbers(geometry), recompute)
