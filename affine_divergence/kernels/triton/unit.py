"""Triton kernels of rows of unit length for QK-norm: one launch for queries and keys.

    y[s,j] = x[s,j]/sqrt(q[s])
    q[s] = sum[j](x[s,j]**2)

A tile holds whole rows, which are read once and may have any strides, such as those of a packed projection. Arithmetic
is in at least float32. Second derivatives, tangents, empty tensors and heads wider than a tile are left to
``kernels.torch.unit``.

Derivation (SHA-256 of the map): fd83bd9f90bc43402920e6a470375944deedef859c1b9e894fcdcc94303040fb
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.operands import check_launch, outside_autocast
from ...runtime.operators import complete, complete_gradients, register
from ..torch import unit as plain
from .runtime.tiles import Tiles, on, wide

_TILE = 4096  # entries of a tile of several rows
_WIDEST = 1 << 14  # entries of the longest row that fits one tile


@triton.jit
def places(block, columns, heads, tokens, N, H, T, J, ROWS: tl.constexpr):
    """Return the offsets of a block of rows of a tensor (batch, heads, tokens, n) with these strides."""
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = row // tokens // heads * N + row // tokens % heads * H + row % tokens * T
    return at[:, None] + columns.to(tl.int64)[None, :] * J


@triton.jit
def forward_rows(
    block, heads, n, x_ptr, u_ptr, f_ptr, rows, tokens, x_N, x_H, x_T, x_J, u_N, u_H, u_T, u_J, FLOOR: tl.constexpr,
    WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store f and u of a block of rows."""
    numbers = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = (numbers < rows)[:, None] & (columns < n)[None, :]
    at = places(block, columns, heads, tokens, x_N, x_H, x_T, x_J, ROWS)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(WIDE)
    peak = tl.maximum(tl.max(tl.abs(x), axis=1), FLOOR)
    y_over_peak = x / peak[:, None]
    q = tl.sum(y_over_peak * y_over_peak, axis=1)  # l2-norm/define-q
    q_or_inf = tl.where(q == 0, float("inf"), q)
    f = 1 / peak / tl.sqrt(q_or_inf)
    u = f[:, None] * x  # l2-norm/forward
    tl.store(f_ptr + numbers, f, mask=numbers < rows)
    at = places(block, columns, heads, tokens, u_N, u_H, u_T, u_J, ROWS)
    tl.store(u_ptr + at, u, mask=inside)


@triton.jit
def forward_kernel(
    heads, n, q_x_ptr, q_u_ptr, q_f_ptr, q_rows, q_tokens, q_x_N, q_x_H, q_x_T, q_x_J, q_u_N, q_u_H, q_u_T, q_u_J,
    k_x_ptr, k_u_ptr, k_f_ptr, k_rows, k_tokens, k_x_N, k_x_H, k_x_T, k_x_J, k_u_N, k_u_H, k_u_T, k_u_J, FLOOR:
    tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Process a block of the queries or, after the last of them, of the keys."""
    block, blocks = tl.program_id(0), tl.cdiv(q_rows, ROWS)
    if block < blocks:
        forward_rows(
            block, heads, n, q_x_ptr, q_u_ptr, q_f_ptr, q_rows, q_tokens, q_x_N, q_x_H, q_x_T, q_x_J, q_u_N, q_u_H,
            q_u_T, q_u_J, FLOOR, WIDE, ROWS, COLUMNS
        )
    else:
        forward_rows(
            block - blocks, heads, n, k_x_ptr, k_u_ptr, k_f_ptr, k_rows, k_tokens, k_x_N, k_x_H, k_x_T, k_x_J, k_u_N,
            k_u_H, k_u_T, k_u_J, FLOOR, WIDE, ROWS, COLUMNS
        )


@triton.jit
def backward_rows(
    block, heads, n, g_ptr, u_ptr, dx_ptr, f_ptr, rows, tokens, g_N, g_H, g_T, g_J, u_N, u_H, u_T, u_J, dx_N, dx_H,
    dx_T, dx_J, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Store dx of a block of rows."""
    numbers = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = (numbers < rows)[:, None] & (columns < n)[None, :]
    at = places(block, columns, heads, tokens, g_N, g_H, g_T, g_J, ROWS)
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(WIDE)
    at = places(block, columns, heads, tokens, u_N, u_H, u_T, u_J, ROWS)
    u = tl.load(u_ptr + at, mask=inside, other=0.0).to(WIDE)
    f = tl.load(f_ptr + numbers, mask=numbers < rows, other=0.0)
    gu = tl.sum(g * u, axis=1)
    c = f * gu
    dx = f[:, None] * g - c[:, None] * u  # l2-norm/backward-dx
    at = places(block, columns, heads, tokens, dx_N, dx_H, dx_T, dx_J, ROWS)
    tl.store(dx_ptr + at, dx, mask=inside)


@triton.jit
def backward_kernel(
    heads, n, q_g_ptr, q_u_ptr, q_dx_ptr, q_f_ptr, q_rows, q_tokens, q_g_N, q_g_H, q_g_T, q_g_J, q_u_N, q_u_H, q_u_T,
    q_u_J, q_dx_N, q_dx_H, q_dx_T, q_dx_J, k_g_ptr, k_u_ptr, k_dx_ptr, k_f_ptr, k_rows, k_tokens, k_g_N, k_g_H, k_g_T,
    k_g_J, k_u_N, k_u_H, k_u_T, k_u_J, k_dx_N, k_dx_H, k_dx_T, k_dx_J, WIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS:
    tl.constexpr
):
    """Process a block of the queries or, after the last of them, of the keys."""
    block, blocks = tl.program_id(0), tl.cdiv(q_rows, ROWS)
    if block < blocks:
        backward_rows(
            block, heads, n, q_g_ptr, q_u_ptr, q_dx_ptr, q_f_ptr, q_rows, q_tokens, q_g_N, q_g_H, q_g_T, q_g_J, q_u_N,
            q_u_H, q_u_T, q_u_J, q_dx_N, q_dx_H, q_dx_T, q_dx_J, WIDE, ROWS, COLUMNS
        )
    else:
        backward_rows(
            block - blocks, heads, n, k_g_ptr, k_u_ptr, k_dx_ptr, k_f_ptr, k_rows, k_tokens, k_g_N, k_g_H, k_g_T, k_g_J,
            k_u_N, k_u_H, k_u_T, k_u_J, k_dx_N, k_dx_H, k_dx_T, k_dx_J, WIDE, ROWS, COLUMNS
        )


def forward(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries (N, H, L, d) and keys (N, H, S, d) scaled to unit length, each with its ``f`` (.., 1)."""
    check_launch(q, q.shape, (k, (*q.shape[:2], k.shape[2], q.shape[3]), q.dtype))
    if not (q.numel() and k.numel()) or q.shape[3] > _WIDEST:
        found: tuple[Tensor, Tensor, Tensor, Tensor] = plain.UnitPairReverse.forward(q, k)
        return found
    u_q, f_q, u_k, f_k = _forward_like(q, k)
    _, WIDE, FLOOR = wide(q.dtype)
    settings = {"FLOOR": FLOOR, "WIDE": WIDE}
    _launch(forward_kernel, q, [f_q.numel(), f_k.numel()], [(q, u_q, f_q), (k, u_k, f_k)], settings)
    return u_q, f_q, u_k, f_k


def backward(
    g_q: Tensor, u_q: Tensor, f_q: Tensor, g_k: Tensor, u_k: Tensor, f_k: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to queries and keys, an empty tensor for each that is not wanted."""
    for g, u, f in ((g_q, u_q, f_q), (g_k, u_k, f_k)):
        check_launch(u, u.shape, (g, u.shape, u.dtype), (f, (*u.shape[:3], 1), wide(u_q.dtype)[0]))
    check_launch(u_q, u_q.shape, (u_k, (*u_q.shape[:2], u_k.shape[2], u_q.shape[3]), u_q.dtype))
    given = list(zip((g_q, g_k), (u_q, u_k), (f_q, f_k), wanted, strict=True))
    if not (u_q.numel() and u_k.numel() and any(wanted)) or u_q.shape[3] > _WIDEST:
        d_q, d_k = (plain.gradient(g if w else None, None, u, f) for g, u, f, w in given)
        return u_q.new_empty(0) if d_q is None else d_q, u_k.new_empty(0) if d_k is None else d_k
    made = _backward_like(g_q, u_q, f_q, g_k, u_k, f_k, wanted)
    sides = [(g, u, d if w else u, f.contiguous()) for (g, u, f, w), d in zip(given, made, strict=True)]
    settings = {"WIDE": wide(u_q.dtype)[1]}
    _launch(backward_kernel, u_q, [f.numel() if w else 0 for _, _, f, w in given], sides, settings)
    return made


def _launch(
    kernel: Any, like: Tensor, rows: Sequence[int], sides: Sequence[tuple[Tensor, ...]], settings: dict[str, Any]
) -> None:
    """Launch a kernel over the rows of queries and keys; tensors are in the order of its arguments, ``f`` last."""
    heads, n = like.shape[1], like.shape[3]
    across = triton.next_power_of_2(n)
    tiles = Tiles(max(1, _TILE // across), across, 0, 4 if across <= _TILE else 16)
    given: list[Any] = [heads, n]
    for count, side in zip(rows, sides, strict=True):
        given += [*side, count, max(1, side[-1].shape[2])]
        given += [stride for tensor in side[:-1] for stride in tensor.stride()]
    blocks = sum(triton.cdiv(count, tiles.down) for count in rows)
    with on(like):
        kernel[(blocks,)](*given, **settings, ROWS=tiles.down, COLUMNS=tiles.across, **tiles.settings)


def _forward_like(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tensors of the shapes, strides and types of what ``forward`` returns."""
    dtype = wide(q.dtype)[0]
    f_q, f_k = (x.new_empty([*x.shape[:-1], 1], dtype=dtype) for x in (q, k))
    return torch.empty_like(q), f_q, torch.empty_like(k), f_k


def _backward_like(
    g_q: Tensor, u_q: Tensor, f_q: Tensor, g_k: Tensor, u_k: Tensor, f_k: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Return tensors of the shapes, strides and types of what ``backward`` returns."""
    d_q, d_k = (torch.empty_like(u) if w else u.new_empty(0) for u, w in zip((u_q, u_k), wanted, strict=True))
    return d_q, d_k


_forward = register("unit_pair", "(Tensor q, Tensor k) -> (Tensor, Tensor, Tensor, Tensor)", forward, _forward_like)
_backward = register(
    "unit_pair_backward",
    "(Tensor g_q, Tensor u_q, Tensor f_q, Tensor g_k, Tensor u_k, Tensor f_k, bool[] wanted) -> (Tensor, Tensor)",
    backward,
    _backward_like,
)


class UnitPairReverse(plain.UnitPairReverse):
    """The map, computed by the kernels above; reverse mode only, which is what ``torch.compile`` can trace."""

    @staticmethod
    def forward(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the queries of unit length with their ``f``, and the keys with theirs."""
        u_q, f_q, u_k, f_k = _forward(q, k)
        return u_q, f_q, u_k, f_k

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients with respect to queries and keys, None for zero."""
        return plain.gradients_by(_backward, ctx, given)


class UnitPair(UnitPairReverse, plain.UnitPair):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(UnitPairReverse.backward))


complete(_forward, UnitPairReverse.backward, plain.UnitPairReverse.setup_context)
complete_gradients(_backward, plain.pair_gradients, 6)
