"""norm-like (normalising) transposed convolution without a bias.

    z[s,g,o,qh,qw] = f[s,g,qh,qw]*sum[c,kh,kw,ph,pw](W[g,c,o,kh,kw]*x[s,g,c,ph,pw]*delta(dilationh*kh + strideh*ph -
        paddingh, qh)*delta(dilationw*kw + stridew*pw - paddingw, qw))
    f[s,g,qh,qw] = sqrt(kappa)/sqrt(E[s,g,qh,qw])
    E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew
        - dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
        dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew +
        paddingw/stridew - dilationw*l/stridew, Lw))

``f`` scales a position. Besides the tensors that the backward pass reads anyway, it is the only number per position
that is kept for it. The formulas are written for two axes of space; for one and three axes only the number of indices
differs, and the code is the same. For the layout of tensors see ``runtime.patches``.

Derivation (SHA-256 of the map): 1200751a61d37b6d171ffc7ac5d69cf15d5bc3bfb09626a07472a7b6165fdac4
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import is_eager, outside_autocast
from ...runtime.patches import (
    Geometry,
    add_product,
    box,
    gather,
    gradients_of,
    inner,
    kernel_gradient,
    longest,
    reach,
    rounded,
    scatter,
    spread,
    squares,
    squares_without_graph,
    tangent_or_zeros,
    wide,
)
from ...runtime.rows import is_scaled_first, read_once

Squares = Callable[[Tensor], Tensor]


def scale(x: Tensor, kappa: float, geometry: Geometry, squares: Squares = squares) -> Tensor:
    """Return the scale of each position (B, G, 1, *P), at least float32.

    f[s,g,qh,qw] = sqrt(kappa)/sqrt(E[s,g,qh,qw])
    """
    xx = squares(x)
    # grouped-transposed-convolution-without-bias/norm-like/define-E
    E = spread(xx, geometry, reach(x.shape[3:], geometry))
    E_or_inf = E.masked_fill(E == 0, math.inf)
    # grouped-transposed-convolution-without-bias/norm-like/define-f
    f = math.sqrt(kappa) / torch.sqrt(E_or_inf)
    return rounded(f, x)


def portable(x: Tensor, W: Tensor, kappa: float, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the output and the scale by operations that autograd and ``torch.vmap`` support.

    The input is rescaled before the convolution, which could leave the range for unscaled numbers.
    """
    f = scale(x, kappa, geometry)
    top = longest(f)
    u = x / top
    f_u = top * wide(f)
    h_u = scatter(u.to(x.dtype), W, geometry, f.shape[3:])
    # grouped-transposed-convolution-without-bias/norm-like/forward
    z = (rounded(f_u, x) * h_u).to(x.dtype)
    return z, f


def gradients(
    g: Tensor, x: Tensor, W: Tensor, f: Tensor, kappa: float, geometry: Geometry, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to ``x`` and ``W``, None where not wanted.

    Autograd can differentiate them. ``g`` is the gradient with respect to the output, in its shape.
    """
    dx = dW = None
    top = longest(f)
    u = x / top
    f_u = top * wide(f)
    dh_u = rounded(f_u, x) * g
    if wanted[0]:
        h_u = scatter(u.to(x.dtype), W, geometry, g.shape[3:])
        g_h_u = inner(g, h_u)
        du = gather(dh_u.to(x.dtype), W, geometry, size=x.shape[3:])
        df = top * g_h_u
        dE = -df * wide(f)**3 / (2 * kappa)
        dxx = box(dE, geometry, size=x.shape[3:])
        c = 1 / top
        c2 = 2 * top * dxx
        # grouped-transposed-convolution-without-bias/norm-like/backward-dx
        dx = (rounded(c2, x) * u + rounded(c, x) * du).to(x.dtype)
    if wanted[1]:
        # grouped-transposed-convolution-without-bias/norm-like/backward-dW
        dW = kernel_gradient(u.to(x.dtype), dh_u.to(x.dtype), geometry)
    return dx, dW


class PatchNormLikeTransposedWithoutBiasReverse(torch.autograd.Function):
    """The map of ``x`` and ``W``, kappa, the geometry and whether to recompute.

    It returns the output, the scale and ``h``, or None if the backward pass recomputes it. Only the output carries a
    gradient. ``functional`` checks the arguments, this class does not. Reverse mode only, which is what
    ``torch.compile`` can trace.
    """

    @staticmethod
    @read_once
    def forward(
        x: Tensor, W: Tensor, kappa: float, geometry: Geometry, recompute: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the output, the scale, and the kept ``h`` or None."""
        if is_scaled_first(x):
            return (*portable(x, W, kappa, geometry), None)
        f = scale(x, kappa, geometry, squares_without_graph)
        h = scatter(x, W, geometry, f.shape[3:])
        if not is_eager(x, W):
            z = f * h  # grouped-transposed-convolution-without-bias/norm-like/forward
            return z, f, None if recompute else h
        if recompute:
            z = h.mul_(f)  # grouped-transposed-convolution-without-bias/norm-like/forward
            return z, f, None
        z = f * h  # grouped-transposed-convolution-without-bias/norm-like/forward
        return z, f, h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor | None]) -> None:
        """Save the tensors that the derivatives read."""
        x, W, ctx.kappa, ctx.geometry, _ = inputs
        ctx.set_materialize_grads(output[2] is None)  # otherwise each backward pass would allocate zeros for the kept product
        ctx.mark_non_differentiable(*(kept for kept in output[1:] if kept is not None))
        ctx.save_for_backward(x, W, *output[1:])
        ctx.save_for_forward(x, W)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x`` and ``W``; None where not needed and for settings."""
        if g is None:  # nothing depends on the output
            return None, None, None, None, None
        x, W, f, h = ctx.saved_tensors
        kappa, geometry, wanted = ctx.kappa, ctx.geometry, ctx.needs_input_grad
        if torch.is_grad_enabled():  # a graph is recorded, so the scale must be part of it
            f = scale(x, kappa, geometry)
        if torch.is_grad_enabled() or is_scaled_first(g):
            return (*gradients(g, x, W, f, kappa, geometry, wanted), None, None, None)
        dx = dW = None
        dh = f * g
        # grouped-transposed-convolution-without-bias/norm-like/backward-dW
        dh_W, dW, _ = gradients_of(dh, x, W, geometry, (*wanted[:2], False), transposed=True)
        if wanted[0]:
            if h is None:
                h = scatter(x, W, geometry, g.shape[3:])
            gh = inner(g, h)
            dE = -wide(f)**3 * gh / (2 * kappa)
            dxx = box(dE, geometry, size=x.shape[3:])
            # grouped-transposed-convolution-without-bias/norm-like/backward-dx
            dx = add_product(dh_W, 2 * dxx, x, f)
        return dx, dW, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Any, ...], tuple[int, int, None]]:
        """Return the map batched over one more axis, which comes first."""
        mapped = torch.vmap(partial(portable, geometry=arguments[-2]), in_dims[:-2])(*arguments[:-2])
        return (*mapped, None), (0, 0, None)


class PatchNormLikeTransposedWithoutBias(PatchNormLikeTransposedWithoutBiasReverse):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchNormLikeTransposedWithoutBiasReverse.backward))

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, W_t: Tensor | None, *_: None) -> tuple[Tensor, None, None]:
        """Return the tangent of the output from those of ``x`` and ``W``, and None for the scale and the kept product."""
        x, W = ctx.saved_tensors[:2]
        x_t, W_t = tangent_or_zeros(x_t, x), tangent_or_zeros(W_t, W)
        kappa, geometry = ctx.kappa, ctx.geometry
        f = scale(x, kappa, geometry)  # recomputed, so that the tangent can be differentiated too
        top = longest(f)
        u = x / top
        f_u = top * wide(f)
        h_u = scatter(u.to(x.dtype), W, geometry, f.shape[3:])
        x_t_x = inner(wide(x_t), x)
        xx_t = 2 * x_t_x
        E_t = spread(xx_t, geometry, f.shape[3:])
        f_t = -E_t * wide(f)**3 / (2 * kappa)
        c = 1 / top
        u_t = rounded(c, x) * x_t
        f_u_t = top * f_t
        u_t_W = scatter(u_t.to(x.dtype), W, geometry, f.shape[3:])
        W_t_u = scatter(u.to(x.dtype), W_t, geometry, f.shape[3:])
        h_u_t = W_t_u + u_t_W
        # grouped-transposed-convolution-without-bias/norm-like/tangent
        z_t = (rounded(f_u, x) * h_u_t + rounded(f_u_t, x) * h_u).to(x.dtype)
        return z_t, None, None
