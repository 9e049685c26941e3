"""norm-like without a bias on CUDA: the kernels of ``norm_like_without_bias.cu`` around matrix products.

    z[s,i] = f[s]*sum[j](W[i,j]*x[s,j])

Derivation (SHA-256 of the map): 2ec87905374e7d0ce42d46bb8819f45c34998f2f03de24337e53c2c6e6a75828
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import Unpacked, outside_autocast
from ...runtime.operators import Passes, Signature, register_map
from ..torch import norm_like_without_bias as plain
from .runtime.launch import Source

KERNELS = Source(Path(__file__).with_suffix(".cu"))


class NormLikeWithoutBias(plain.NormLikeWithoutBias):
    """The map of ``x`` (B, n), ``W`` (m, n) and kappa by CUDA kernels; returns output and row scale.

    ``functional`` checks the arguments, this class does not. Values kept for the backward pass, tangents and batching
    are the base class's.
    """

    @staticmethod
    @outside_autocast
    def forward(x: Tensor, W: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        rows, n, m = x.shape[0], x.shape[1], W.shape[0]
        if not KERNELS.take((x, W), ((rows, n), (m, n))):
            return plain.NormLikeWithoutBias.forward(x, W, kappa)
        kernels = KERNELS.on(x)
        f_u = kernels.column(x.shape[0])
        f = kernels.column(x.shape[0])
        # linear/norm-like/define-f
        kernels.rows("norm_like_without_bias_f", (x.shape[0], x.shape[1]), x, f, f_u, kappa)
        xW = kernels.product(x, W.t(), wide=True)
        z = kernels.over(xW)
        # linear/norm-like/forward
        kernels.rows("norm_like_without_bias_z", (x.shape[0], W.shape[0]), f, xW, z, f_u, x, W, x.shape[1])
        return z, f

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x`` and ``W``, None where not needed, and None for kappa."""
        kept = x, W, f = ctx.saved_tensors
        rows, m, n = g.shape[0], g.shape[1], x.shape[1]
        takes = KERNELS.take((g, x, W), ((rows, m), (rows, n), (m, n)), f)
        if torch.is_grad_enabled() or not takes:  # by operations that autograd and torch.vmap support
            return plain.NormLikeWithoutBias.backward(Unpacked(ctx, kept), g, _)
        kappa, wanted, kernels = ctx.kappa, ctx.needs_input_grad, KERNELS.on(g)
        dx = dW = None
        if wanted[0] and wanted[1]:
            gW = kernels.product(g, W, wide=True)
            u = kernels.matrix(g.shape[0], x.shape[1])
            dx = kernels.over(gW)
            # linear/norm-like/backward-dx
            kernels.rows("norm_like_without_bias_u_dx", (g.shape[0], x.shape[1]), x, f, gW, u, dx, kappa)
            dW = kernels.product(g.t(), u)  # linear/norm-like/backward-dW
        elif wanted[0]:
            gW = kernels.product(g, W, wide=True)
            dx = kernels.over(gW)
            # linear/norm-like/backward-dx
            kernels.rows("norm_like_without_bias_dx", (g.shape[0], x.shape[1]), x, f, gW, dx, kappa)
        elif wanted[1]:
            u = kernels.matrix(g.shape[0], x.shape[1])
            kernels.rows("norm_like_without_bias_u", (g.shape[0], x.shape[1]), x, f, u)
            dW = kernels.product(g.t(), u)  # linear/norm-like/backward-dW
        return dx, dW, None


OPERATOR = register_map(
    "cuda_norm_like_without_bias",
    Signature(("x", "W"), ("float kappa",), 1),
    Passes(NormLikeWithoutBias, plain.NormLikeWithoutBias, 2, 1),
    Passes(plain.NormLikeWithoutBias, plain.NormLikeWithoutBias, 2, 1),
)


class NormLikeWithoutBiasReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    apply = staticmethod(OPERATOR)
    forward = staticmethod(plain.NormLikeWithoutBiasReverse.forward)
