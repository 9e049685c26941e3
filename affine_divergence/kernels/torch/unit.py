"""Rows of unit length, to which QK-norm scales every query and key.

    y[s,j] = x[s,j]/sqrt(q[s])
    q[s] = sum[j](x[s,j]**2)

The scale is computed without squares that overflow or underflow; a row of zeros has no direction and stays zero, without
a gradient. Only the rows of unit length u and one number f per row, of at least float32, are kept: the backward pass does
not read the input. Both are results with derivatives, so the gradient can be differentiated again.

Derivation (SHA-256 of the map): fd83bd9f90bc43402920e6a470375944deedef859c1b9e894fcdcc94303040fb
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import is_eager, outside_autocast
from ...runtime.rows import read_once, squared_length, squared_length_without_graph

Length = Callable[[Tensor], tuple[Tensor | float, Tensor]]
Given = tuple[Tensor | None, ...]


def scale(x: Tensor, length: Length = squared_length) -> Tensor:
    """Return ``f`` (..., 1) of the rows of ``x`` (..., d), in at least float32."""
    peak, q = length(x)  # l2-norm/define-q
    q_or_inf = q.masked_fill(q == 0, math.inf)
    f = 1 / peak / torch.sqrt(q_or_inf)
    return f


def portable(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``u`` (..., d) and ``f`` (..., 1) of ``x`` (..., d), by operations that autograd and ``vmap`` support."""
    f = scale(x)
    u = (f * x).to(x.dtype)  # l2-norm/forward
    return u, f


def without_graph(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, with ``u`` in the memory layout of ``x``, and fewer passes over memory."""
    f = scale(x, squared_length_without_graph)
    if is_eager(x):
        f = torch.empty_like(x[..., :1], dtype=f.dtype).copy_(f)  # results have the layout of their operands
    u = f * x  # l2-norm/forward
    return u if u.dtype == x.dtype else u.to(x.dtype), f


def gradient(g: Tensor | None, h: Tensor | None, u: Tensor, f: Tensor) -> Tensor | None:
    """Return the gradient with respect to the input from ``g`` (..., d) with respect to ``u`` and ``h`` (..., 1) to ``f``.

    None stands for zero, also in the result. Autograd can differentiate it.
    """
    total, dtype, u = None, u.dtype, u.to(f.dtype)
    if g is not None:
        g = g.to(f.dtype)
        gu = (g * u).sum(-1, keepdim=True)
        c = f * gu
        dx = f * g - c * u  # l2-norm/backward-dx
        total = dx
    if h is not None:
        c = f**2 * h
        dx_by_f = -c * u
        total = dx_by_f if total is None else total + dx_by_f
    return None if total is None else total.to(dtype)


def tangent(x: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tangents of ``u`` and ``f`` from the input and its tangent."""
    u, f = portable(x)
    u, x_t = u.to(f.dtype), x_t.to(f.dtype)
    u_x_t = (u * x_t).sum(-1, keepdim=True)
    c = f * u_x_t
    u_t = (f * x_t - c * u).to(x.dtype)  # l2-norm/tangent
    f_t = -f**2 * u_x_t
    return u_t, f_t


def pair_gradients(
    g_q: Tensor, u_q: Tensor, f_q: Tensor, g_k: Tensor, u_k: Tensor, f_k: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Return the gradients with respect to queries and keys from those with respect to ``u``, None if not wanted."""
    given = zip((g_q, g_k), (u_q, u_k), (f_q, f_k), wanted, strict=True)
    return tuple(gradient(g, None, u, f) if w else None for g, u, f, w in given)


def gradients(ctx: Any, given: Given) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients with respect to queries and keys from those of the four results, None for zero."""
    g_q, h_q, g_k, h_k = given
    u_q, f_q, u_k, f_k = ctx.saved_tensors
    return gradient(g_q, h_q, u_q, f_q), gradient(g_k, h_k, u_k, f_k)


def gradients_by(
    kernels: Callable[..., tuple[Tensor, Tensor]], ctx: Any, given: Given
) -> tuple[Tensor | None, Tensor | None]:
    """Return the same by kernels, if no graph is recorded and ``f`` has no other use."""
    g_q, h_q, g_k, h_k = given
    if torch.is_grad_enabled() or h_q is not None or h_k is not None:
        return gradients(ctx, given)
    u_q, f_q, u_k, f_k = ctx.saved_tensors
    wanted = [g is not None and w for g, w in zip((g_q, g_k), ctx.needs_input_grad, strict=True)]
    found = kernels(u_q if g_q is None else g_q, u_q, f_q, u_k if g_k is None else g_k, u_k, f_k, wanted)
    d_q, d_k = (d if w else None for d, w in zip(found, wanted, strict=True))
    return d_q, d_k


class UnitPairReverse(torch.autograd.Function):
    """Queries (N, H, L, d) and keys (N, H, S, d) scaled to unit length; returns ``u`` and ``f`` (N, H, L, 1) of each.

    Reverse mode only, which is what ``torch.compile`` can trace.
    """

    @staticmethod
    @read_once
    def forward(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the queries of unit length with their ``f``, and the keys with theirs."""
        return (*without_graph(q), *without_graph(k))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        """Save the tensors that the derivatives read."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients with respect to queries and keys, None for zero."""
        return gradients(ctx, given)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Return the map batched over one more axis, which comes first."""

        def pair(q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
            return (*portable(q), *portable(k))

        return torch.vmap(pair, in_dims)(*arguments), (0, 0, 0, 0)


class UnitPair(UnitPairReverse):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(UnitPairReverse.backward))

    @staticmethod
    def jvp(ctx: Any, q_t: Tensor | None, k_t: Tensor | None) -> tuple[Tensor, ...]:
        """Return the tangents of the results from those of queries and keys; None stands for zero."""
        q, k = ctx.saved_tensors
        pairs = ((q, q_t), (k, k_t))
        return tuple(t for x, x_t in pairs for t in tangent(x, torch.zeros_like(x) if x_t is None else x_t))
