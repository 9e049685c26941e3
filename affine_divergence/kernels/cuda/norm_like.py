"""norm-like on CUDA: the kernels of ``norm_like.cu`` around matrix products.

    z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]) + b[i]

Derivation (SHA-256 of the map): 066ad2a7d1abe914408dd39ad9cb832cb3cf1179193d8da99240086f42663443
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import Unpacked, outside_autocast
from ...runtime.operators import Passes, Signature, register_map
from ..torch import norm_like as plain
from .runtime.launch import Source

KERNELS = Source(Path(__file__).with_suffix(".cu"))


class NormLike(plain.NormLike):
    """The map of ``x`` (B, n), ``W`` (m, n), ``b`` (m) and kappa by CUDA kernels; returns output and row scale.

    ``functional`` checks the arguments, this class does not. Values kept for the backward pass, tangents and batching
    are the base class's.
    """

    @staticmethod
    @outside_autocast
    def forward(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        rows, n, m = x.shape[0], x.shape[1], W.shape[0]
        if not KERNELS.take((x, W, b), ((rows, n), (m, n), (m,))):
            return plain.NormLike.forward(x, W, b, kappa)
        kernels = KERNELS.on(x)
        f_u = kernels.column(x.shape[0])
        f = kernels.column(x.shape[0])
        kernels.rows("norm_like_f", (x.shape[0], x.shape[1]), x, f, f_u, kappa)  # norm-like/define-f
        xW = kernels.product(x, W.t(), wide=True)
        z = kernels.over(xW)
        # norm-like/forward
        kernels.rows("norm_like_z", (x.shape[0], W.shape[0]), b, f, xW, z, f_u, x, W, x.shape[1])
        return z, f

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        kept = x, W, f = ctx.saved_tensors
        rows, m, n = g.shape[0], g.shape[1], x.shape[1]
        takes = KERNELS.take((g, x, W), ((rows, m), (rows, n), (m, n)), f)
        if torch.is_grad_enabled() or not takes:  # by operations that autograd and torch.vmap support
            return plain.NormLike.backward(Unpacked(ctx, kept), g, _)
        kappa, wanted, kernels = ctx.kappa, ctx.needs_input_grad, KERNELS.on(g)
        dx = dW = db = None
        if wanted[0] and wanted[1]:
            gW = kernels.product(g, W, wide=True)
            u = kernels.matrix(g.shape[0], x.shape[1])
            dx = kernels.over(gW)
            kernels.rows("norm_like_u_dx", (g.shape[0], x.shape[1]), x, f, gW, u, dx, kappa)  # norm-like/backward-dx
            dW = kernels.product(g.t(), u)  # norm-like/backward-dW
        elif wanted[0]:
            gW = kernels.product(g, W, wide=True)
            dx = kernels.over(gW)
            kernels.rows("norm_like_dx", (g.shape[0], x.shape[1]), x, f, gW, dx, kappa)  # norm-like/backward-dx
        elif wanted[1]:
            u = kernels.matrix(g.shape[0], x.shape[1])
            kernels.rows("norm_like_u", (g.shape[0], x.shape[1]), x, f, u)
            dW = kernels.product(g.t(), u)  # norm-like/backward-dW
        if wanted[2]:
            db = kernels.vector(g.shape[1])
            kernels.columns("norm_like_db", (g.shape[0], g.shape[1]), g, db)  # norm-like/backward-db
        return dx, dW, db, None


OPERATOR = register_map(
    "cuda_norm_like",
    Signature(("x", "W", "b"), ("float kappa",), 1),
    Passes(NormLike, plain.NormLike, 3, 1),
    Passes(plain.NormLike, plain.NormLike, 3, 1),
)


class NormLikeReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    apply = staticmethod(OPERATOR)
    forward = staticmethod(plain.NormLikeReverse.forward)
