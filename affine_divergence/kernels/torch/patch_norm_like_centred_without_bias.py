"""norm-like (normalising) convolution of centred patches without a bias.

    z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[c,kh,kw](W[g,o,c,kh,kw]*(x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw
        + stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw -
        paddingw, Lw) - m[s,g,ph,pw]))
    f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw])
    E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
        paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw)) -
        C*Kh*Kw*m[s,g,ph,pw]**2
    m[s,g,ph,pw] = sum[c,kh,kw](x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw + stridew*pw -
        paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw - paddingw,
        Lw))/(C*Kh*Kw)

``f`` scales a position. Besides the tensors that the backward pass reads anyway, it is the only number per position
that is kept for it. The formulas are written for two axes of space; for one and three axes only the number of indices
differs, and the code is the same. For the layout of tensors see ``runtime.patches``.

Derivation (SHA-256 of the map): 4cb6cf6b3cee09b224b2f6960e353fae7f6c058286ce4e8ca2d3b041be621b01
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...runtime.far_images import look_for_far
from ...runtime.operands import is_eager, outside_autocast
from ...runtime.patches import (
    Geometry,
    add_product,
    box,
    difference,
    gather,
    gradients_of,
    inner,
    kernel_gradient,
    longest,
    over_channels,
    over_kernel,
    over_samples,
    rounded,
    scatter,
    spread,
    squares,
    tangent_or_zeros,
    wide,
)
from ...runtime.rows import is_scaled_first, read_once

Squares = Callable[[Tensor], Tensor]


def scale(x: Tensor, kappa: float, geometry: Geometry) -> Tensor:
    """Return the scale of each position (B, G, 1, *P), at least float32.

    f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw])
    """
    x_sum = over_channels(x)
    x_sum_sum = box(x_sum, geometry)
    # centred-convolution-without-bias/norm-like/define-m
    m = x_sum_sum / (x.shape[2] * math.prod(geometry.kernel))
    xx = squares(x)
    xx_sum = box(xx, geometry)
    # centred-convolution-without-bias/norm-like/define-E
    E = difference(xx_sum, x.shape[2] * math.prod(geometry.kernel) * m**2)
    E_or_inf = E.masked_fill(E == 0, math.inf)
    f = math.sqrt(kappa) / torch.sqrt(E_or_inf)  # centred-convolution-without-bias/norm-like/define-f
    return rounded(f, x)


def portable(x: Tensor, W: Tensor, kappa: float, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the output and the scale by operations that autograd and ``torch.vmap`` support.

    The input is rescaled before the convolution, which could leave the range for unscaled numbers.
    """
    f = scale(x, kappa, geometry)
    x_sum = over_channels(x)
    x_sum_sum = box(x_sum, geometry)
    # centred-convolution-without-bias/norm-like/define-m
    m = x_sum_sum / (x.shape[2] * math.prod(geometry.kernel))
    top = longest(f)
    u = x / top
    f_u = top * wide(f)
    W_sum = over_kernel(W)
    xW_u = gather(u.to(x.dtype), W, geometry)
    m_u = m / top
    h_u = xW_u - W_sum * rounded(m_u, x)
    z = (rounded(f_u, x) * h_u).to(x.dtype)  # centred-convolution-without-bias/norm-like/forward
    return z, f


def gradients(
    g: Tensor, x: Tensor, W: Tensor, f: Tensor, kappa: float, geometry: Geometry, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to ``x`` and ``W``, None where not wanted.

    Autograd can differentiate them. ``g`` is the gradient with respect to the output, in its shape.
    """
    dx = dW = None
    x_sum = over_channels(x)
    x_sum_sum = box(x_sum, geometry)
    # centred-convolution-without-bias/norm-like/define-m
    m = x_sum_sum / (x.shape[2] * math.prod(geometry.kernel))
    top = longest(f)
    u = x / top
    f_u = top * wide(f)
    m_u = m / top
    dh_u = rounded(f_u, x) * g
    if wanted[0]:
        W_sum = over_kernel(W)
        xW_u = gather(u.to(x.dtype), W, geometry)
        h_u = xW_u - W_sum * rounded(m_u, x)
        g_h_u = inner(g, h_u)
        dh_u_W_sum = inner(dh_u, W_sum)
        dm_u = -dh_u_W_sum
        du = scatter(dh_u.to(x.dtype), W, geometry, x.shape[3:])
        df = top * g_h_u
        dE = -df * wide(f)**3 / (2 * kappa)
        dxx = spread(dE, geometry, x.shape[3:])
        c = 1 / top
        dm = c * dm_u - 2 * x.shape[2] * math.prod(geometry.kernel) * dE * m
        dx_sum_sum = dm / (x.shape[2] * math.prod(geometry.kernel))
        dx_sum = spread(dx_sum_sum, geometry, x.shape[3:])
        c2 = 1 / top
        c3 = 2 * top * dxx
        # centred-convolution-without-bias/norm-like/backward-dx
        dx = (rounded(c2, x) * du + rounded(c3, x) * u + rounded(dx_sum, x)).to(x.dtype)
    if wanted[1]:
        dh_u_m_u = over_samples(dh_u * rounded(m_u, x))
        dh_u_u = kernel_gradient(dh_u.to(x.dtype), u.to(x.dtype), geometry)
        dW_sum = -dh_u_m_u
        # centred-convolution-without-bias/norm-like/backward-dW
        dW = dh_u_u + dW_sum.unsqueeze(2).to(x.dtype)
    return dx, dW


class PatchNormLikeCentredWithoutBiasReverse(torch.autograd.Function):
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
        look_for_far(x)
        f = scale(x, kappa, geometry)
        x_sum = over_channels(x)
        x_sum_sum = box(x_sum, geometry)
        # centred-convolution-without-bias/norm-like/define-m
        m = x_sum_sum / (x.shape[2] * math.prod(geometry.kernel))
        W_sum = over_kernel(W)
        xW = gather(x, W, geometry)
        if not is_eager(x, W):
            h = xW - W_sum * rounded(m, x)
            z = f * h  # centred-convolution-without-bias/norm-like/forward
            return z, f, None if recompute else h
        h = xW.addcmul_(W_sum, rounded(m, x), value=-1)
        if recompute:
            z = h.mul_(f)  # centred-convolution-without-bias/norm-like/forward
            return z, f, None
        z = f * h  # centred-convolution-without-bias/norm-like/forward
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
        x_sum = over_channels(x)
        x_sum_sum = box(x_sum, geometry)
        # centred-convolution-without-bias/norm-like/define-m
        m = x_sum_sum / (x.shape[2] * math.prod(geometry.kernel))
        dh = f * g
        dh_W, dh_x, _ = gradients_of(dh, x, W, geometry, (*wanted[:2], False))
        if wanted[0]:
            W_sum = over_kernel(W)
            if h is None:
                xW = gather(x, W, geometry)
                h = xW.addcmul_(W_sum, rounded(m, x), value=-1)
            gh = inner(g, h)
            dh_W_sum = inner(dh, W_sum)
            dE = -wide(f)**3 * gh / (2 * kappa)
            dxx = spread(dE, geometry, x.shape[3:])
            dm = -2 * x.shape[2] * math.prod(geometry.kernel) * dE * m - dh_W_sum
            dx_sum_sum = dm / (x.shape[2] * math.prod(geometry.kernel))
            dx_sum = spread(dx_sum_sum, geometry, x.shape[3:])
            # centred-convolution-without-bias/norm-like/backward-dx
            dx = add_product(dh_W, 2 * dxx, x, f, rounded(dx_sum, x))
        if wanted[1]:
            dh_m = over_samples(dh * rounded(m, x))
            dW_sum = -dh_m
            dW = dh_x + dW_sum.unsqueeze(2)  # centred-convolution-without-bias/norm-like/backward-dW
        return dx, dW, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Any, ...], tuple[int, int, None]]:
        """Return the map batched over one more axis, which comes first."""
        mapped = torch.vmap(partial(portable, geometry=arguments[-2]), in_dims[:-2])(*arguments[:-2])
        return (*mapped, None), (0, 0, None)


class PatchNormLikeCentredWithoutBias(PatchNormLikeCentredWithoutBiasReverse):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(PatchNormLikeCentredWithoutBiasReverse.backward))

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, W_t: Tensor | None, *_: None) -> tuple[Tensor, None, None]:
        """Return the tangent of the output from those of ``x`` and ``W``, and None for the scale and the kept product."""
        x, W = ctx.saved_tensors[:2]
        x_t, W_t = tangent_or_zeros(x_t, x), tangent_or_zeros(W_t, W)
        kappa, geometry = ctx.kappa, ctx.geometry
        f = scale(x, kappa, geometry)  # recomputed, so that the tangent can be differentiated too
        x_sum = over_channels(x)
        x_sum_sum = box(x_sum, geometry)
        # centred-convolution-without-bias/norm-like/define-m
        m = x_sum_sum / (x.shape[2] * math.prod(geometry.kernel))
        top = longest(f)
        u = x / top
        f_u = top * wide(f)
        W_sum = over_kernel(W)
        xW_u = gather(u.to(x.dtype), W, geometry)
        m_u = m / top
        h_u = xW_u - W_sum * rounded(m_u, x)
        x_sum_t = over_channels(x_t)
        x_sum_sum_t = box(x_sum_t, geometry)
        m_t = x_sum_sum_t / (x.shape[2] * math.prod(geometry.kernel))
        x_t_x = inner(wide(x_t), x)
        xx_t = 2 * x_t_x
        xx_sum_t = box(xx_t, geometry)
        E_t = xx_sum_t - 2 * x.shape[2] * math.prod(geometry.kernel) * m * m_t
        f_t = -E_t * wide(f)**3 / (2 * kappa)
        c = 1 / top
        u_t = rounded(c, x) * x_t
        f_u_t = top * f_t
        W_sum_t = over_kernel(W_t)
        u_t_W = gather(u_t.to(x.dtype), W, geometry)
        W_t_u = gather(u.to(x.dtype), W_t, geometry)
        xW_u_t = W_t_u + u_t_W
        c2 = 1 / top
        m_u_t = c2 * m_t
        h_u_t = xW_u_t - W_sum * rounded(m_u_t, x) - W_sum_t * rounded(m_u, x)
        # centred-convolution-without-bias/norm-like/tangent
        z_t = (rounded(f_u, x) * h_u_t + rounded(f_u_t, x) * h_u).to(x.dtype)
        return z_t, None, None
