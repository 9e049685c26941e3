"""norm-like without a bias on the CPU: the kernels of ``norm_like_without_bias.cpp`` around matrix products.

    z[s,i] = f[s]*sum[j](W[i,j]*x[s,j])

Derivation (SHA-256 of the map): 2ec87905374e7d0ce42d46bb8819f45c34998f2f03de24337e53c2c6e6a75828
"""

# mypy: disable-error-code="arg-type, assignment, no-any-return"

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.operands import Unpacked, check_dense, check_result, outside_autocast
from ...runtime.operators import Passes, Signature, register_map
from ..torch import norm_like_without_bias as plain
from .runtime.launch import Source
from .runtime.rows import RowPasses, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"), narrow=True)


class NormLikeWithoutBias(torch.autograd.Function):
    """The map of ``x`` (B, n), ``W`` (m, n) and kappa by kernels in C++; returns the output.

    ``functional`` checks the arguments, this class does not. It keeps the same values for the backward pass as the
    torch target's class, which also computes tangents and replaces this one in the transforms of ``torch.func``.
    """

    transformed = plain.NormLikeWithoutBias

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, kappa: float) -> Tensor:
        """Return the output, and save the tensors that the derivatives read."""
        given = x, W
        rows, n, m = x.shape[0], x.shape[1], W.shape[0]
        ready = ctx.ready = KERNELS.ready((x, W), ((rows, n), (m, n)))
        if ready is None:
            ctx.ready = KERNELS.narrow((x, W), ((rows, n), (m, n)))
        if ctx.ready is None:
            check_dense("norm_like_without_bias", x=x, weight=W)
            z, f = plain.NormLikeWithoutBias.forward(x, W, kappa)
        elif ready is None:
            z, f = scaled_first(x, W, kappa, *ctx.ready)
        else:  # do as much as possible before the first product, which evicts code from the caches
            kernels, threads = ready
            x = x.contiguous()
            f = x.new_empty(rows, 1)
            x_at = x.data_ptr()
            f_at = f.data_ptr()
        ctx.kappa = kappa
        ctx.save_for_backward(*given, f)
        ctx.save_for_forward(*given, f)
        if ready is None:
            return z
        xW = F.linear(x, W)
        xW_at = check_result(xW, x, (rows, m)).data_ptr()
        z = xW  # in place
        # linear/norm-like/define-f, linear/norm-like/forward
        far = kernels.norm_like_without_bias_f_z(rows, n, m, x_at, xW_at, f_at, xW_at, kappa, threads)
        if far:
            z, scale = plain.exact_of_far(z, f, x, W, kappa)
            f.copy_(scale)  # the scale is already saved
        return z

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """Return the tangent of the output."""
        found: Tensor = plain.NormLikeWithoutBias.jvp(ctx, *tangents)[0]
        return found

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x`` and ``W``, None where not needed, and None for kappa."""
        if ctx.ready is None or torch.is_grad_enabled():  # by operations that autograd and torch.vmap support
            return plain.NormLikeWithoutBias.backward(ctx, g, None)
        kept = x, W, f = ctx.saved_tensors
        rows, m, n = g.shape[0], g.shape[1], x.shape[1]
        ready = KERNELS.ready((g, x, W, f), ((rows, m), (rows, n), (m, n), (rows, 1)))
        if ready is None:
            ready = KERNELS.narrow((g, x, W, f), ((rows, m), (rows, n), (m, n), (rows, 1)), wide=1)
        if ready is None:
            return plain.NormLikeWithoutBias.backward(Unpacked(ctx, kept), g, None)
        kappa, wanted, (kernels, threads) = ctx.kappa, ctx.needs_input_grad, ready
        x = x.contiguous()
        dx = dW = u = None
        if wanted[1]:
            u = x.new_empty(rows, n)
            x_at = x.data_ptr()
            f_at = f.data_ptr()
            u_at = u.data_ptr()
            kernels.norm_like_without_bias_u(rows, n, x_at, f_at, u_at, threads)
            dW = torch.mm(g.t(), u)  # linear/norm-like/backward-dW
        if wanted[0]:
            x_at = x.data_ptr()
            f_at = f.data_ptr()
            gW = torch.mm(g, W, out=u)
            gW_at = check_result(gW, x, (rows, n)).data_ptr()
            dx = gW  # in place
            # linear/norm-like/backward-dx
            kernels.norm_like_without_bias_dx(rows, n, x_at, f_at, gW_at, gW_at, kappa, threads)
        return dx, dW, None



def scaled_first(x: Tensor, W: Tensor, kappa: float, kernels: Any, threads: int) -> tuple[Tensor, Tensor]:
    """Return the output and the row scale for 16-bit types, whose input is scaled before the product."""
    rows, n = x.shape[0], x.shape[1]
    x = x.contiguous()
    f = x.new_empty(rows, 1, dtype=torch.float32)
    u = x.new_empty(rows, n)
    x_at = x.data_ptr()
    f_at = f.data_ptr()
    u_at = u.data_ptr()
    kernels.norm_like_without_bias_f_u(rows, n, x_at, f_at, u_at, kappa, threads)  # linear/norm-like/define-f
    z = F.linear(u, W)  # linear/norm-like/forward
    return z, f


OPERATOR = register_map(
    "cpp_norm_like_without_bias",
    Signature(("x", "W"), ("float kappa",), 1),
    RowPasses(NormLikeWithoutBias, plain.NormLikeWithoutBias, 2, (0, 1)),
    Passes(plain.NormLikeWithoutBias, plain.NormLikeWithoutBias, 2, 1),
)


class NormLikeWithoutBiasReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    apply = staticmethod(OPERATOR)
    forward = staticmethod(plain.NormLikeWithoutBiasReverse.forward)
    suits = staticmethod(suits)
