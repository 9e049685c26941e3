"""norm-like without a bias on the CPU: the kernels of ``_cpp_norm_like_without_bias.cpp`` around products of matrices.

    z[s,i] = f[s]*sum[j](W[i,j]*x[s,j])

Derivation (SHA-256 of the map): 2ec87905374e7d0ce42d46bb8819f45c34998f2f03de24337e53c2c6e6a75828
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _norm_like_without_bias as plain
from ._cpp_launch import Source, suits
from ._rows import read_once

KERNELS = Source("_cpp_norm_like_without_bias.cpp")
NormLikeWithoutBiasReverse = plain.NormLikeWithoutBiasReverse  # for what traces operations of torch


class NormLikeWithoutBias(plain.NormLikeWithoutBias):
    """The map of ``x`` (B, n), ``W`` (m, n) and kappa by kernels in C++; gives output and row scale.

    Nothing is checked here: see ``_cpp``. What is kept for the backward pass, tangents and maps over more axes are
    those of the class that this one is derived from.
    """

    @staticmethod
    @read_once
    def forward(x: Tensor, W: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        if not suits(x):
            return plain.NormLikeWithoutBias.forward(x, W, kappa)
        kernels = KERNELS.on(x)
        xW = torch.mm(x, W.t())
        f = x.new_empty(x.shape[0], 1)
        z = xW  # in place
        # linear/norm-like/define-f, linear/norm-like/forward
        kernels.run("norm_like_without_bias_f_z", (x.shape[0], x.shape[1], W.shape[0]), x, xW, f, z, kappa)
        return z, f

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``x`` and ``W``, None where not needed, and None for kappa."""
        if torch.is_grad_enabled() or not suits(g):  # by operations that autograd and torch.vmap know
            return plain.NormLikeWithoutBias.backward(ctx, g, _)
        x, W, f = ctx.saved_tensors
        kappa, wanted, kernels = ctx.kappa, ctx.needs_input_grad, KERNELS.on(g)
        dx = dW = u = None
        if wanted[1]:
            u = x.new_empty(g.shape[0], x.shape[1])
            kernels.run("norm_like_without_bias_u", (g.shape[0], x.shape[1]), x, f, u)
            dW = torch.mm(g.t(), u)  # linear/norm-like/backward-dW
        if wanted[0]:
            gW = torch.mm(g, W, out=u)
            dx = gW  # in place
            # linear/norm-like/backward-dx
            kernels.run("norm_like_without_bias_dx", (g.shape[0], x.shape[1]), x, f, gW, dx, kappa)
        return dx, dW, None
