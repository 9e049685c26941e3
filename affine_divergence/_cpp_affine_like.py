"""affine-like on the CPU: the kernels of ``_cpp_affine_like.cpp`` around products of matrices.

    z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i])

Derivation (SHA-256 of the map): cfad222b6c6579e09d9aae903bf1bb454998140b6ced7f579358baf89578781d
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _affine_like as plain
from ._cpp_launch import Source, suits
from ._rows import read_once

KERNELS = Source("_cpp_affine_like.cpp")
AffineLikeReverse = plain.AffineLikeReverse  # for what traces operations of torch


class AffineLike(plain.AffineLike):
    """The map of ``x`` (B, n), ``W`` (m, n), ``b`` (m) and kappa by kernels in C++; gives output and row scale.

    Nothing is checked here: see ``_cpp``. What is kept for the backward pass, tangents and maps over more axes are
    those of the class that this one is derived from.
    """

    @staticmethod
    @read_once
    def forward(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        if not suits(x):
            return plain.AffineLike.forward(x, W, b, kappa)
        kernels = KERNELS.on(x)
        xW = torch.mm(x, W.t())
        f = x.new_empty(x.shape[0], 1)
        z = xW  # in place
        # affine-like/define-f, affine-like/forward
        kernels.run("affine_like_f_z", (x.shape[0], x.shape[1], W.shape[0]), x, b, xW, f, z, kappa)
        return z, f

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        if torch.is_grad_enabled() or not suits(g):  # by operations that autograd and torch.vmap know
            return plain.AffineLike.backward(ctx, g, _)
        x, W, b, f = ctx.saved_tensors
        kappa, wanted, kernels = ctx.kappa, ctx.needs_input_grad, KERNELS.on(g)
        if wanted[0] and wanted[1] and wanted[2]:
            gb = x.new_empty(g.shape[0], 1)
            u = x.new_empty(g.shape[0], x.shape[1])
            db = x.new_empty(g.shape[1])
            # affine-like/backward-db
            kernels.run("affine_like_gb_u_db", (g.shape[0], g.shape[1], x.shape[1]), g, x, b, f, gb, u, db)
            dW = torch.mm(g.t(), u)  # affine-like/backward-dW
            gW = torch.mm(g, W, out=u)
            dx = gW  # in place
            # affine-like/backward-dx
            kernels.run("affine_like_given_gb_dx", (g.shape[0], x.shape[1]), x, f, gb, gW, dx, kappa)
            return dx, dW, db, None
        dx = dW = db = u = None
        if wanted[1]:
            u = x.new_empty(g.shape[0], x.shape[1])
            kernels.run("affine_like_u", (g.shape[0], x.shape[1]), x, f, u)
            dW = torch.mm(g.t(), u)  # affine-like/backward-dW
        if wanted[2]:
            db = x.new_empty(g.shape[1])
            kernels.run("affine_like_db", (g.shape[0], g.shape[1]), g, f, db)  # affine-like/backward-db
        if wanted[0]:
            gW = torch.mm(g, W, out=u)
            dx = gW  # in place
            # affine-like/backward-dx
            kernels.run("affine_like_dx", (g.shape[0], g.shape[1], x.shape[1]), g, x, b, f, gW, dx, kappa)
        return dx, dW, db, None
