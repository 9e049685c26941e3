"""norm-like on the CPU: the kernels of ``_cpp_norm_like.cpp`` around products of matrices.

    z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]) + b[i]

Derivation (SHA-256 of the map): 066ad2a7d1abe914408dd39ad9cb832cb3cf1179193d8da99240086f42663443
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _norm_like as plain
from ._cpp_launch import Source, suits
from ._rows import read_once

KERNELS = Source("_cpp_norm_like.cpp")
NormLikeReverse = plain.NormLikeReverse  # for what traces operations of torch


class NormLike(plain.NormLike):
    """The map of ``x`` (B, n), ``W`` (m, n), ``b`` (m) and kappa by kernels in C++; gives output and row scale.

    Nothing is checked here: see ``_cpp``. What is kept for the backward pass, tangents and maps over more axes are
    those of the class that this one is derived from.
    """

    @staticmethod
    @read_once
    def forward(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        if not suits(x):
            return plain.NormLike.forward(x, W, b, kappa)
        kernels = KERNELS.on(x)
        xW = torch.mm(x, W.t())
        f = x.new_empty(x.shape[0], 1)
        z = xW  # in place
        # norm-like/define-f, norm-like/forward
        kernels.run("norm_like_f_z", (x.shape[0], x.shape[1], W.shape[0]), x, b, xW, f, z, kappa)
        return z, f

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        if torch.is_grad_enabled() or not suits(g):  # by operations that autograd and torch.vmap know
            return plain.NormLike.backward(ctx, g, _)
        x, W, f = ctx.saved_tensors
        kappa, wanted, kernels = ctx.kappa, ctx.needs_input_grad, KERNELS.on(g)
        if wanted[0] and wanted[1] and wanted[2]:
            u = x.new_empty(g.shape[0], x.shape[1])
            db = x.new_empty(g.shape[1])
            kernels.run("norm_like_u_db", (g.shape[0], x.shape[1], g.shape[1]), x, f, u, g, db)  # norm-like/backward-db
            dW = torch.mm(g.t(), u)  # norm-like/backward-dW
            gW = torch.mm(g, W, out=u)
            dx = gW  # in place
            kernels.run("norm_like_dx", (g.shape[0], x.shape[1]), x, f, gW, dx, kappa)  # norm-like/backward-dx
            return dx, dW, db, None
        dx = dW = db = u = None
        if wanted[1]:
            u = x.new_empty(g.shape[0], x.shape[1])
            kernels.run("norm_like_u", (g.shape[0], x.shape[1]), x, f, u)
            dW = torch.mm(g.t(), u)  # norm-like/backward-dW
        if wanted[2]:
            db = x.new_empty(g.shape[1])
            kernels.run("norm_like_db", (g.shape[0], g.shape[1]), g, db)  # norm-like/backward-db
        if wanted[0]:
            gW = torch.mm(g, W, out=u)
            dx = gW  # in place
            kernels.run("norm_like_dx", (g.shape[0], x.shape[1]), x, f, gW, dx, kappa)  # norm-like/backward-dx
        return dx, dW, db, None
