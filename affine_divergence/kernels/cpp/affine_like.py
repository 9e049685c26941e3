"""affine-like on the CPU: the kernels of ``affine_like.cpp`` around matrix products.

    z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i])

Derivation (SHA-256 of the map): cfad222b6c6579e09d9aae903bf1bb454998140b6ced7f579358baf89578781d
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
from ..torch import affine_like as plain
from .runtime.launch import Source
from .runtime.rows import RowPasses, suits

KERNELS = Source(Path(__file__).with_suffix(".cpp"), narrow=True)


class AffineLike(torch.autograd.Function):
    """The map of ``x`` (B, n), ``W`` (m, n), ``b`` (m) and kappa by kernels in C++; returns the output.

    ``functional`` checks the arguments, this class does not. It keeps the same values for the backward pass as the
    torch target's class, which also computes tangents and replaces this one in the transforms of ``torch.func``.
    """

    transformed = plain.AffineLike

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor, kappa: float) -> Tensor:
        """Return the output, and save the tensors that the derivatives read."""
        given = x, W, b
        rows, n, m = x.shape[0], x.shape[1], W.shape[0]
        ready = ctx.ready = KERNELS.ready((x, W, b), ((rows, n), (m, n), (m,)))
        if ready is None:
            ctx.ready = KERNELS.narrow((x, W, b), ((rows, n), (m, n), (m,)))
        if ctx.ready is None:
            check_dense("affine_like", x=x, weight=W, bias=b)
            z, f = plain.AffineLike.forward(x, W, b, kappa)
        elif ready is None:
            z, f = scaled_first(x, W, b, kappa, *ctx.ready)
        else:  # do as much as possible before the first product, which evicts code from the caches
            kernels, threads = ready
            x = x.contiguous()
            b = b.contiguous()
            f = x.new_empty(rows, 1)
            x_at = x.data_ptr()
            b_at = b.data_ptr()
            f_at = f.data_ptr()
        ctx.kappa = kappa
        ctx.save_for_backward(*given, f)
        ctx.save_for_forward(*given, f)
        if ready is None:
            return z
        xW = F.linear(x, W)
        xW_at = check_result(xW, x, (rows, m)).data_ptr()
        z = xW  # in place
        # affine-like/define-f, affine-like/forward
        far = kernels.affine_like_f_z(rows, n, m, x_at, b_at, xW_at, f_at, xW_at, kappa, threads)
        if far:
            z, scale = plain.exact_of_far(z, f, x, W, b, kappa)
            f.copy_(scale)  # the scale is already saved
        return z

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """Return the tangent of the output."""
        found: Tensor = plain.AffineLike.jvp(ctx, *tangents)[0]
        return found

    @staticmethod
    @outside_autocast
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        if ctx.ready is None or torch.is_grad_enabled():  # by operations that autograd and torch.vmap support
            return plain.AffineLike.backward(ctx, g, None)
        kept = x, W, b, f = ctx.saved_tensors
        rows, m, n = g.shape[0], g.shape[1], x.shape[1]
        ready = KERNELS.ready((g, x, W, b, f), ((rows, m), (rows, n), (m, n), (m,), (rows, 1)))
        if ready is None:
            ready = KERNELS.narrow((g, x, W, b, f), ((rows, m), (rows, n), (m, n), (m,), (rows, 1)), wide=1)
        if ready is None:
            return plain.AffineLike.backward(Unpacked(ctx, kept), g, None)
        kappa, wanted, (kernels, threads) = ctx.kappa, ctx.needs_input_grad, ready
        g = g.contiguous()
        x = x.contiguous()
        b = b.contiguous()
        if wanted[0] and wanted[1] and wanted[2]:
            gb = f.new_empty(rows, 1)
            u = x.new_empty(rows, n)
            db = x.new_empty(m)
            g_at = g.data_ptr()
            x_at = x.data_ptr()
            b_at = b.data_ptr()
            f_at = f.data_ptr()
            gb_at = gb.data_ptr()
            u_at = u.data_ptr()
            db_at = db.data_ptr()
            # affine-like/backward-db
            kernels.affine_like_gb_u_db(rows, m, n, g_at, x_at, b_at, f_at, gb_at, u_at, db_at, threads)
            dW = torch.mm(g.t(), u)  # affine-like/backward-dW
            gW = torch.mm(g, W, out=u)
            gW_at = check_result(gW, x, (rows, n)).data_ptr()
            dx = gW  # in place
            # affine-like/backward-dx
            kernels.affine_like_given_gb_dx(rows, n, x_at, f_at, gb_at, gW_at, gW_at, kappa, threads)
            return dx, dW, db, None
        dx = dW = db = u = None
        if wanted[1]:
            u = x.new_empty(rows, n)
            x_at = x.data_ptr()
            f_at = f.data_ptr()
            u_at = u.data_ptr()
            kernels.affine_like_u(rows, n, x_at, f_at, u_at, threads)
            dW = torch.mm(g.t(), u)  # affine-like/backward-dW
        if wanted[2]:
            db = x.new_empty(m)
            g_at = g.data_ptr()
            f_at = f.data_ptr()
            db_at = db.data_ptr()
            kernels.affine_like_db(rows, m, g_at, f_at, db_at, threads)  # affine-like/backward-db
        if wanted[0]:
            g_at = g.data_ptr()
            x_at = x.data_ptr()
            b_at = b.data_ptr()
            f_at = f.data_ptr()
            gW = torch.mm(g, W, out=u)
            gW_at = check_result(gW, x, (rows, n)).data_ptr()
            dx = gW  # in place
            # affine-like/backward-dx
            kernels.affine_like_dx(rows, m, n, g_at, x_at, b_at, f_at, gW_at, gW_at, kappa, threads)
        return dx, dW, db, None



def scaled_first(x: Tensor, W: Tensor, b: Tensor, kappa: float, kernels: Any, threads: int) -> tuple[Tensor, Tensor]:
    """Return the output and the row scale for 16-bit types, whose input is scaled before the product."""
    rows, n, m = x.shape[0], x.shape[1], W.shape[0]
    x = x.contiguous()
    b = b.contiguous()
    f = x.new_empty(rows, 1, dtype=torch.float32)
    u = x.new_empty(rows, n)
    x_at = x.data_ptr()
    f_at = f.data_ptr()
    u_at = u.data_ptr()
    b_at = b.data_ptr()
    kernels.affine_like_f_u(rows, n, x_at, f_at, u_at, kappa, threads)  # affine-like/define-f
    uW = F.linear(u, W)
    uW_at = check_result(uW, x, (rows, m)).data_ptr()
    z = uW  # in place
    kernels.affine_like_z(rows, m, b_at, f_at, uW_at, uW_at, threads)  # affine-like/forward
    return z, f


OPERATOR = register_map(
    "cpp_affine_like",
    Signature(("x", "W", "b"), ("float kappa",), 1),
    RowPasses(AffineLike, plain.AffineLike, 3, (0, 1, 2)),
    Passes(plain.AffineLike, plain.AffineLike, 3, 1),
)


class AffineLikeReverse:
    """The map as an operator for compilers; a trace gets torch's operations."""

    apply = staticmethod(OPERATOR)
    forward = staticmethod(plain.AffineLikeReverse.forward)
    suits = staticmethod(suits)
