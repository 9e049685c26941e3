"""affine-like on CUDA: the kernels of ``affine_like.cu`` around matrix products.

    z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i])

Derivation (SHA-256 of the map): cfad222b6c6579e09d9aae903bf1bb454998140b6ced7f579358baf89578781d
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import Unpacked, outside_autocast
from ...runtime.operators import Passes, Signature, register_map
from ..torch import affine_like as plain
from .runtime.launch import Source

KERNELS = Source(Path(__file__).with_suffix(".cu"))


class AffineLike(plain.AffineLike):
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
            return plain.AffineLike.forward(x, W, b, kappa)
        kernels = KERNELS.on(x)
        f_u = kernels.column(x.shape[0])
        f = kernels.column(x.shape[0])
        kernels.rows("affine_like_f", (x.shape[0], x.shape[1]), x, f, f_u, kappa)  # affine-like/define-f
        xW = kernels.product(x, W.t(), wide=True)
        z = kernels.over(xW)
        # affine-like/forward
        kernels.rows("affine_like_z", (x.shape[0], W.shape[0]), b, f, xW, z, f_u, x, W, x.shape[1])
        return z, f

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        kept = x, W, b, f = ctx.saved_tensors
        rows, m, n = g.shape[0], g.shape[1], x.shape[1]
        takes = KERNELS.take((g, x, W, b), ((rows, m), (rows, n), (m, n), (m,)), f)
        if torch.is_grad_enabled() or not takes:  # by operations that autograd and torch.vmap support
            return plain.AffineLike.backward(Unpacked(ctx, kept), g, _)
        kappa, wanted, kernels = ctx.kappa, ctx.needs_input_grad, KERNELS.on(g)
        dx = dW = db = None
        if wanted[0] and wanted[1]:
            gW = kernels.product(g, W, wide=True)
            u = kernels.matrix(g.shape[0], x.shape[1])
            dx = kernels.over(gW)
            # affine-like/backward-dx
            kernels.rows("affine_like_u_dx", (g.shape[0], g.shape[1], x.shape[1]), g, x, b, f, gW, u, dx, kappa)
            dW = kernels.product(g.t(), u)  # affine-like/backward-dW
        elif wanted[0]:
            gW = kernels.product(g, W, wide=True)
            dx = kernels.over(gW)
            # affine-like/backward-dx
            kernels.rows("affine_like_dx", (g.shape[0], g.shape[1], x.shape[1]), g, x, b, f, gW, dx, kappa)
        elif wanted[1]:
            u = kernels.matrix(g.shape[0], x.shape[1])
            kernels.rows("affine_like_u", (g.shape[0], x.shape[1]), x, f, u)
            dW = kernels.product(g.t(), u)  # affine-like/backward-dW
        if wanted[2]:
            db = kernels.vector(g.shape[1])
            kernels.columns("affine_like_db", (g.shape[0], g.shape[1]), g, f, db)  # affine-like/backward-db
        return dx, dW, db, None


OPERATOR = register_map(
    "cuda_affine_like",
    Signature(("x", "W", "b"), ("float kappa",), 1),
    Passes(AffineLike, plain.AffineLike, 3, 1),
    Passes(plain.AffineLike, plain.AffineLike, 3, 1),
)


class AffineLikeReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    apply = staticmethod(OPERATOR)
    forward = staticmethod(plain.AffineLikeReverse.forward)
