"""affine-like: z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i]).

Where:

    f[s] = sqrt(kappa)/sqrt(E[s] + 1)
    E[s] = sum[j](x[s,j]**2)

``f`` scales a row. Besides the tensors that the backward pass reads anyway, it is the only number per row that is kept
for it. Products use the scaled input, which is bounded for inputs of any length, so that none overflows.

Derivation (SHA-256 of the map): cfad222b6c6579e09d9aae903bf1bb454998140b6ced7f579358baf89578781d
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.operands import is_eager, outside_autocast
from ...runtime.rows import (
    is_scaled_first,
    read_once,
    row_blocks,
    safe_squares,
    scaled_length,
    squared_length,
    weighted_sum,
    with_far_rows,
)

Length = Callable[[Tensor], tuple[Tensor, Tensor]]


def scale(x: Tensor, kappa: float, length: Length = squared_length) -> Tensor:
    """Return the scale of each row of ``x`` (B, n) as a column (B, 1) of at least float32.

    f[s] = sqrt(kappa)/sqrt(E[s] + 1)
    """
    peak, q = length(x)  # affine-like/define-E
    f = math.sqrt(kappa) / peak / torch.sqrt(q + 1 / peak**2)  # affine-like/define-f
    return f


def plain_scale(E: Tensor, kappa: float) -> Tensor:
    """Return the scale from the squared lengths (B, 1) of rows, which must be in range and positive; overwrites them."""
    f = E.add_(1).rsqrt_().mul_(math.sqrt(kappa))  # affine-like/define-f
    return f


def portable(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return the output (B, m) and the row scale (B, 1) by operations that autograd and ``torch.vmap`` support.

    The input is scaled before the product, which could overflow for unscaled numbers.
    """
    f = scale(x, kappa)
    u = f * x
    uW = F.linear(u.to(x.dtype), W)
    z = (uW + f * b).to(x.dtype)  # affine-like/forward
    return z, f


def exact_of_far(z: Tensor, f: Tensor, x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return an output and the row scale, computed in float64 for far rows, whose products would leave the range."""
    return with_far_rows(z, f, x, lambda: portable(x.double(), W.double(), b.double(), kappa))


def gradients(
    g: Tensor, x: Tensor, W: Tensor, b: Tensor, f: Tensor, kappa: float, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to ``x``, ``W`` and ``b``, None where not wanted.

    Autograd can differentiate them. ``g`` (B, m) is the gradient with respect to the output; the other shapes are those of the forward map.
    """
    dx = dW = db = None
    u = f * x
    if wanted[0]:
        gW = g @ W
        gb = (g @ b).unsqueeze(-1)
        u_gW = (u * gW).sum(-1, keepdim=True)
        c = f * (f * gb + u_gW) / kappa
        dx = (f * gW - c * u).to(x.dtype)  # affine-like/backward-dx
    if wanted[1]:
        dW = g.t() @ u.to(x.dtype)  # affine-like/backward-dW
    if wanted[2]:
        db = (f * g).sum(0).to(x.dtype)  # affine-like/backward-db
    return dx, dW, db


def gradient_rows(u: Tensor, gW: Tensor, f: Tensor, gb: Tensor, kappa: float) -> Tensor:
    """Return the gradient of some rows of ``x``, overwriting ``gW``, the product that it is computed from."""
    c = (u * gW).sum(-1, keepdim=True).addcmul_(f, gb).mul_(f / kappa)
    dx = gW.mul_(f).addcmul_(c, u, value=-1)  # affine-like/backward-dx
    return dx


class AffineLikeReverse(torch.autograd.Function):
    """The map of ``x`` (B, n), ``W`` (m, n), ``b`` (m) and kappa; returns the output (B, m) and the row scale (B, 1).

    The row scale carries no gradient. ``functional`` checks the arguments, this class does not. Reverse mode only, which is what
    ``torch.compile`` can trace.
    """

    @staticmethod
    @read_once
    def forward(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        if is_scaled_first(x):
            return portable(x, W, b, kappa)
        xW = F.linear(x, W, b)
        E, unsafe = safe_squares(x)  # after the product, which has loaded x into a cache
        f = scale(x, kappa, scaled_length) if E is None else plain_scale(E, kappa)
        if unsafe is not None:
            f = torch.where(unsafe, scale(x, kappa, scaled_length), f)
        if not is_eager(x, W, b):
            z = f * xW  # affine-like/forward
            return z, f
        z = xW.mul_(f)  # affine-like/forward
        if unsafe is not None:
            return exact_of_far(z, f, x, W, b, kappa)
        return z, f

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save the tensors that the derivatives read."""
        x, W, b, ctx.kappa = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, W, b, output[1])
        ctx.save_for_forward(x, W, b, output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        x, W, b, f = ctx.saved_tensors
        kappa, wanted = ctx.kappa, ctx.needs_input_grad
        if torch.is_grad_enabled():  # a graph is recorded, so the scale must be part of it
            f = scale(x, kappa)
        if torch.is_grad_enabled() or g.dtype.itemsize < 4 or not is_eager(g, x, W, b):
            return (*gradients(g, x, W, b, f, kappa, wanted), None)
        dx = dW = db = None
        u = f * x
        if wanted[1]:
            dW = g.t() @ u  # affine-like/backward-dW
        if wanted[2]:
            db = weighted_sum(f, g)  # affine-like/backward-db
        if wanted[0]:
            gb = (g @ b).unsqueeze(-1)
            blocks = row_blocks(x)
            if blocks:
                dx = torch.mm(g, W, out=u)  # no longer read: each block scales its rows again
                for rows in blocks:
                    gradient_rows(f[rows] * x[rows], dx[rows], f[rows], gb[rows], kappa)
            else:
                dx = gradient_rows(u, g @ W, f, gb, kappa)
        return dx, dW, db, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """Return the map batched over one more axis, which comes first."""
        return torch.vmap(portable, in_dims)(*arguments), (0, 0)


class AffineLike(AffineLikeReverse):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(AffineLikeReverse.backward))

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor, W_t: Tensor, b_t: Tensor, _: None) -> tuple[Tensor, None]:
        """Return the tangent of the output from those of ``x``, ``W`` and ``b``, and None for the row scale."""
        x, W, b, _ = ctx.saved_tensors
        kappa = ctx.kappa
        f = scale(x, kappa)  # recomputed, so that the tangent can be differentiated too
        u = f * x
        x_t_W = F.linear(x_t, W)
        u_x_t = (u * x_t).sum(-1, keepdim=True)
        uW = F.linear(u.to(x.dtype), W)
        u_W_t = F.linear(u.to(x.dtype), W_t)
        c = f**2 * u_x_t / kappa
        c2 = f * u_x_t / kappa
        z_t = (f * x_t_W + u_W_t + f * b_t - c2 * uW - c * b).to(x.dtype)  # affine-like/tangent
        return z_t, None
