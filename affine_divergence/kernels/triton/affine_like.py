"""Triton kernels of affine-like: z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i]).

Where:

    f[s] = sqrt(kappa)/sqrt(E[s] + 1)
    E[s] = sum[j](x[s,j]**2)

Rows, columns and units are the axes of the input and of the output. Sums and pointwise operations are computed in at
least float32, matrix products in the tensors' own type with a wide result. The order of every sum is the same in each
run. Second derivatives, tangents and empty tensors are left to ``kernels.torch.affine_like``.

Derivation (SHA-256 of the map): cfad222b6c6579e09d9aae903bf1bb454998140b6ced7f579358baf89578781d
"""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...runtime.operands import check_launch, outside_autocast
from ...runtime.operators import Passes, derive, register
from ..torch import affine_like as plain
from .runtime.tiles import (
    WHOLE_ROW,
    cut,
    dot,
    end_of_near,
    gradient_tiles,
    in_units,
    load,
    load_row,
    on,
    precision,
    product_tiles,
    row_tiles,
    slab,
    store,
    tile_at,
    unit_between,
    unit_of,
    whole_row_tiles,
    wide,
)


@triton.jit
def scale_kernel(
    x_ptr, f_ptr, f_u_ptr, B, n, x_s, x_j, sqrt_kappa: tl.constexpr, FLOOR: tl.constexpr, WIDE: tl.constexpr, ROWS:
    tl.constexpr, COLUMNS: tl.constexpr
):
    """Store ``f`` of each row of x (B, n)."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    peak = tl.full((ROWS,), FLOOR, WIDE)
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = load(x_ptr, rows, columns, x_s, x_j, B, n).to(WIDE)
        peak = tl.maximum(tl.max(tl.abs(x), axis=1), peak)
    q = tl.zeros((ROWS,), WIDE)
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = load(x_ptr, rows, columns, x_s, x_j, B, n).to(WIDE)
        y = x / peak[:, None]
        q += tl.sum(y * y, axis=1)  # affine-like/define-E
    f = sqrt_kappa / peak / tl.sqrt(q + 1 / peak / peak)  # affine-like/define-f
    unit = unit_of(peak, FLOOR, WIDE)
    peak_u = peak * unit
    f_u = sqrt_kappa / peak_u / tl.sqrt(q + 1 / peak / peak)
    tl.store(f_ptr + rows, f, mask=rows < B)
    tl.store(f_u_ptr + rows, f_u, mask=rows < B)


@triton.jit
def forward_kernel(
    x_ptr, W_ptr, b_ptr, f_ptr, f_u_ptr, z_ptr, B, n, m, x_s, x_j, W_i, W_j, b_i, FLOOR: tl.constexpr, WIDE:
    tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr, GROUP:
    tl.constexpr
):
    """Store z (B, m): a matrix product, and the rest of the map on each finished tile."""
    row_block, unit_block = tile_at(tl.cdiv(B, ROWS), tl.cdiv(m, UNITS), GROUP)
    rows = row_block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    units = unit_block * UNITS + tl.arange(0, UNITS)
    f_u = load_row(f_u_ptr, rows, 1, B)
    f = load_row(f_ptr, rows, 1, B)
    xW = tl.zeros((ROWS, UNITS), WIDE)
    unit = unit_between(f_u, f, FLOOR, WIDE)
    near_end = end_of_near(unit, n)
    for start in range(0, near_end, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x_tile = load(x_ptr, rows, columns, x_s, x_j, B, n)
        W_tile = load(W_ptr, columns, units, W_j, W_i, n, m)
        xW = dot(x_tile, W_tile, xW, PRECISION)
    for start in range(near_end, n, COLUMNS):  # a block with far rows, each in its own unit
        columns = start + tl.arange(0, COLUMNS)
        x_tile = load(x_ptr, rows, columns, x_s, x_j, B, n)
        W_tile = load(W_ptr, columns, units, W_j, W_i, n, m)
        x_tile = in_units(x_tile, unit)
        xW = dot(x_tile, W_tile, xW, PRECISION)
    b = load_row(b_ptr, units, b_i, m).to(WIDE)
    z = f_u[:, None] * (xW + unit[:, None] * b[None, :])  # affine-like/forward
    store(z_ptr, z, rows, units, m, B, m)


@triton.jit
def forward_rows_kernel(
    x_ptr, W_ptr, b_ptr, z_ptr, f_ptr, B, n, m, x_s, x_j, W_i, W_j, b_i, sqrt_kappa: tl.constexpr, FLOOR: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr
):
    """Store z (B, m) and ``f``; a tile holds whole rows of x, which are read once."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    x_tile = load(x_ptr, rows, columns, x_s, x_j, B, n)
    x = x_tile.to(WIDE)
    peak = tl.maximum(tl.max(tl.abs(x), axis=1), FLOOR)
    y = x / peak[:, None]
    q = tl.sum(y * y, axis=1)  # affine-like/define-E
    f = sqrt_kappa / peak / tl.sqrt(q + 1 / peak / peak)  # affine-like/define-f
    tl.store(f_ptr + rows, f, mask=rows < B)
    unit = unit_of(peak, FLOOR, WIDE)
    peak_u = peak * unit
    f_u = sqrt_kappa / peak_u / tl.sqrt(q + 1 / peak / peak)
    x_tile = in_units(x_tile, unit)
    for start in range(0, m, UNITS):
        units = start + tl.arange(0, UNITS)
        W_tile = load(W_ptr, columns, units, W_j, W_i, n, m)
        xW = dot(x_tile, W_tile, tl.zeros((ROWS, UNITS), WIDE), PRECISION)
        b = load_row(b_ptr, units, b_i, m).to(WIDE)
        z = f_u[:, None] * (xW + unit[:, None] * b[None, :])  # affine-like/forward
        store(z_ptr, z, rows, units, m, B, m)


@triton.jit
def gradient_rows_kernel(
    g_ptr, b_ptr, f_ptr, gb_ptr, db_ptr, B, m, g_s, g_i, b_i, WIDE: tl.constexpr, ROWS: tl.constexpr, UNITS:
    tl.constexpr
):
    """One pass over g (B, m): store gb of each row and db of each block of rows."""
    block = tl.program_id(0).to(tl.int64)
    rows = block * ROWS + tl.arange(0, ROWS)
    f = load_row(f_ptr, rows, 1, B)
    gb = tl.zeros((ROWS,), WIDE)
    for start in range(0, m, UNITS):
        units = start + tl.arange(0, UNITS)
        g = load(g_ptr, rows, units, g_s, g_i, B, m).to(WIDE)
        b = load_row(b_ptr, units, b_i, m).to(WIDE)
        gb += tl.sum(b[None, :] * g, axis=1)
        db = tl.sum(f[:, None] * g, axis=0)  # affine-like/backward-db
        tl.store(db_ptr + block * m + units, db, mask=units < m)
    tl.store(gb_ptr + rows, gb, mask=rows < B)


@triton.jit
def gradient_product_kernel(
    g_ptr, W_ptr, gW_ptr, B, n, m, g_s, g_i, W_i, W_j, WIDE: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, UNITS: tl.constexpr, GROUP: tl.constexpr
):
    """Store gW (B, n) in the wide type."""
    row_block, column_block = tile_at(tl.cdiv(B, ROWS), tl.cdiv(n, COLUMNS), GROUP)
    rows = row_block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
    gW = tl.zeros((ROWS, COLUMNS), WIDE)
    for start in range(0, m, UNITS):
        units = start + tl.arange(0, UNITS)
        g_tile = load(g_ptr, rows, units, g_s, g_i, B, m)
        W_tile = load(W_ptr, units, columns, W_i, W_j, m, n)
        gW = dot(g_tile, W_tile, gW, PRECISION)
    store(gW_ptr, gW, rows, columns, n, B, n)


@triton.jit
def input_gradient_kernel(
    x_ptr, f_ptr, gW_ptr, gb_ptr, dx_ptr, B, n, x_s, x_j, gW_s, gW_j, kappa: tl.constexpr, WIDE: tl.constexpr, ROWS:
    tl.constexpr, COLUMNS: tl.constexpr
):
    """Store dx (B, n), from gW (B, n) and the numbers of each row."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    f = load_row(f_ptr, rows, 1, B)
    gb = load_row(gb_ptr, rows, 1, B)
    u_gW = tl.zeros((ROWS,), WIDE)
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = load(x_ptr, rows, columns, x_s, x_j, B, n).to(WIDE)
        gW = load(gW_ptr, rows, columns, gW_s, gW_j, B, n).to(WIDE)
        u = f[:, None] * x
        u_gW += tl.sum(gW * u, axis=1)
    c = f * (f * gb + u_gW) / kappa
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        x = load(x_ptr, rows, columns, x_s, x_j, B, n).to(WIDE)
        gW = load(gW_ptr, rows, columns, gW_s, gW_j, B, n).to(WIDE)
        u = f[:, None] * x
        dx = f[:, None] * gW - c[:, None] * u  # affine-like/backward-dx
        store(dx_ptr, dx, rows, columns, n, B, n)


@triton.jit
def input_gradient_rows_kernel(
    g_ptr, x_ptr, W_ptr, f_ptr, gb_ptr, dx_ptr, B, n, m, g_s, g_i, x_s, x_j, W_i, W_j, kappa: tl.constexpr, WIDE:
    tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr
):
    """Store dx (B, n); a tile holds whole rows, so that gW never leaves it."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    gW = tl.zeros((ROWS, COLUMNS), WIDE)
    for start in range(0, m, UNITS):
        units = start + tl.arange(0, UNITS)
        g_tile = load(g_ptr, rows, units, g_s, g_i, B, m)
        W_tile = load(W_ptr, units, columns, W_i, W_j, m, n)
        gW = dot(g_tile, W_tile, gW, PRECISION)
    f = load_row(f_ptr, rows, 1, B)
    gb = load_row(gb_ptr, rows, 1, B)
    x = load(x_ptr, rows, columns, x_s, x_j, B, n).to(WIDE)
    u = f[:, None] * x
    u_gW = tl.sum(gW * u, axis=1)
    c = f * (f * gb + u_gW) / kappa
    dx = f[:, None] * gW - c[:, None] * u  # affine-like/backward-dx
    store(dx_ptr, dx, rows, columns, n, B, n)


@triton.jit
def weight_gradient_kernel(
    g_ptr, x_ptr, f_ptr, dW_ptr, B, n, m, g_s, g_i, x_s, x_j, length, WIDE: tl.constexpr, PRECISION: tl.constexpr, ROWS:
    tl.constexpr, COLUMNS: tl.constexpr, UNITS: tl.constexpr, GROUP: tl.constexpr
):
    """Store dW (m, n) for each part of ``length`` rows; the sum of the parts is the gradient."""
    unit_block, column_block = tile_at(tl.cdiv(m, UNITS), tl.cdiv(n, COLUMNS), GROUP)
    units = unit_block * UNITS + tl.arange(0, UNITS)
    columns = column_block * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(1).to(tl.int64)
    dW = tl.zeros((UNITS, COLUMNS), WIDE)
    for start in range(part * length, min((part + 1) * length, B), ROWS):
        rows = start + tl.arange(0, ROWS)
        g_tile = load(g_ptr, units, rows, g_i, g_s, m, B)
        f = load_row(f_ptr, rows, 1, B)
        x = load(x_ptr, rows, columns, x_s, x_j, B, n).to(WIDE)
        u = f[:, None] * x
        dW = dot(g_tile, u.to(g_tile.dtype), dW, PRECISION)  # affine-like/backward-dW
    store(dW_ptr + part * m * n, dW, units, columns, n, m, n)


def forward(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return the output (B, m) and ``f`` as a column (B, 1), computed by the kernels above."""
    (B, n), m = x.shape, W.shape[0]
    check_launch(
        x, (B, n), (W, (m, n), x.dtype), (b, (m,), x.dtype)
    )
    if 0 in (B, n, m):
        found: tuple[Tensor, Tensor] = plain.AffineLikeReverse.forward(x, W, b, kappa)
        return found
    dtype, WIDE, FLOOR = wide(x.dtype)
    PRECISION = precision(x.dtype)
    z = x.new_empty(B, m)
    f = x.new_empty(B, 1, dtype=dtype)
    with on(x):
        if max(n, m) * max(x.itemsize, 4) <= WHOLE_ROW:
            tiles = whole_row_tiles(B, n, m, x.itemsize, x.device)
            ROWS, COLUMNS, UNITS = tiles.sizes
            forward_rows_kernel[(triton.cdiv(B, ROWS),)](
                x, W, b, z, f, B, n, m, *x.stride(), *W.stride(), *b.stride(), sqrt_kappa=math.sqrt(kappa), FLOOR=FLOOR,
                WIDE=WIDE, PRECISION=PRECISION, ROWS=ROWS, COLUMNS=COLUMNS, UNITS=UNITS, **tiles.settings
            )
            return z, f
        f_u = torch.empty_like(f)
        tiles = row_tiles(n, x.itemsize)
        ROWS, COLUMNS, _ = tiles.sizes
        scale_kernel[(triton.cdiv(B, ROWS),)](
            x, f, f_u, B, n, *x.stride(), sqrt_kappa=math.sqrt(kappa), FLOOR=FLOOR, WIDE=WIDE, ROWS=ROWS,
            COLUMNS=COLUMNS, **tiles.settings
        )
        tiles = product_tiles(B, m, x.itemsize, x.device)
        ROWS, UNITS, COLUMNS = tiles.sizes
        forward_kernel[(triton.cdiv(B, ROWS) * triton.cdiv(m, UNITS),)](
            x, W, b, f, f_u, z, B, n, m, *x.stride(), *W.stride(), *b.stride(), FLOOR=FLOOR, WIDE=WIDE,
            PRECISION=PRECISION, ROWS=ROWS, COLUMNS=COLUMNS, UNITS=UNITS, GROUP=8, **tiles.settings
        )
    return z, f


def backward(
    g: Tensor, x: Tensor, W: Tensor, b: Tensor, f: Tensor, kappa: float, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to ``x``, ``W`` and ``b``, an empty tensor for each that is not wanted."""
    (B, n), m = x.shape, W.shape[0]
    check_launch(
        g, (B, m), (x, (B, n), g.dtype), (W, (m, n), g.dtype), (b, (m,), g.dtype), (f, (B, 1), wide(g.dtype)[0])
    )
    dx, dW, db = (x.new_empty(0) for _ in wanted)
    if 0 in (B, n, m):
        found = plain.gradients(g, x, W, b, f, kappa, tuple(wanted))
        dx, dW, db = (d if d is not None else x.new_empty(0) for d in found)
        return dx, dW, db
    f = f.contiguous()
    dtype, WIDE, _ = wide(x.dtype)
    PRECISION = precision(x.dtype)
    with on(x):
        if wanted[0] or wanted[2]:
            tiles = gradient_tiles(B, m, x.device)
            ROWS, UNITS, _ = tiles.sizes
            blocks = triton.cdiv(B, ROWS)
            gb = x.new_empty(B, dtype=dtype)
            db = x.new_empty(blocks, m, dtype=dtype)
            gradient_rows_kernel[(blocks,)](
                g, b, f, gb, db, B, m, *g.stride(), *b.stride(), WIDE=WIDE, ROWS=ROWS, UNITS=UNITS, **tiles.settings
            )
            db = db.sum(0).to(x.dtype) if wanted[2] else x.new_empty(0)
        if wanted[0]:
            dx = x.new_empty(B, n)
            if max(n, m) * max(x.itemsize, 4) <= WHOLE_ROW:
                tiles = whole_row_tiles(B, n, m, x.itemsize, x.device)
                ROWS, COLUMNS, UNITS = tiles.sizes
                input_gradient_rows_kernel[(triton.cdiv(B, ROWS),)](
                    g, x, W, f, gb, dx, B, n, m, *g.stride(), *x.stride(), *W.stride(), kappa=kappa, WIDE=WIDE,
                    PRECISION=PRECISION, ROWS=ROWS, COLUMNS=COLUMNS, UNITS=UNITS, **tiles.settings
                )
            else:
                height = slab(B, n, dtype, x.itemsize, x.device)
                gW = x.new_empty(height, n, dtype=dtype)
                for start in range(0, B, height):
                    rows = slice(start, start + height)
                    input_gradient(g[rows], x[rows], f[rows], gb[rows], dx[rows], W, gW, kappa)
        if wanted[1]:
            tiles = product_tiles(m, n, x.itemsize, x.device, B)
            UNITS, COLUMNS, ROWS = tiles.sizes
            across = triton.cdiv(m, UNITS) * triton.cdiv(n, COLUMNS)
            length, parts = cut(B, ROWS, across, x.device)
            dW = x.new_empty(parts, m, n, dtype=x.dtype if parts == 1 else dtype)
            weight_gradient_kernel[(across, parts)](
                g, x, f, dW, B, n, m, *g.stride(), *x.stride(), length, WIDE=WIDE, PRECISION=PRECISION, ROWS=ROWS,
                COLUMNS=COLUMNS, UNITS=UNITS, GROUP=8, **tiles.settings
            )
            dW = dW.sum(0).to(x.dtype) if parts > 1 else dW.view(m, n)
    return dx, dW, db


def input_gradient(
    g: Tensor, x: Tensor, f: Tensor, gb: Tensor, dx: Tensor, W: Tensor, gW: Tensor, kappa: float
) -> None:
    """Fill dx for a slab of rows, so few that gW stays in the device's cache between the two kernels."""
    (B, n), m = x.shape, W.shape[0]
    _, WIDE, _ = wide(x.dtype)
    PRECISION = precision(x.dtype)
    tiles = product_tiles(B, n, x.itemsize, x.device)
    ROWS, COLUMNS, UNITS = tiles.sizes
    gradient_product_kernel[(triton.cdiv(B, ROWS) * triton.cdiv(n, COLUMNS),)](
        g, W, gW, B, n, m, *g.stride(), *W.stride(), WIDE=WIDE, PRECISION=PRECISION, ROWS=ROWS, COLUMNS=COLUMNS,
        UNITS=UNITS, GROUP=8, **tiles.settings
    )
    tiles = row_tiles(n, gW.itemsize)
    ROWS, COLUMNS, _ = tiles.sizes
    input_gradient_kernel[(triton.cdiv(B, ROWS),)](
        x, f, gW, gb, dx, B, n, *x.stride(), *gW.stride(), kappa=kappa, WIDE=WIDE, ROWS=ROWS, COLUMNS=COLUMNS,
        **tiles.settings
    )


def _forward_like(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Return tensors of the shapes and types of what ``forward`` returns, for tracing."""
    B, m = x.shape[0], W.shape[0]
    return x.new_empty(B, m), x.new_empty(B, 1, dtype=wide(x.dtype)[0])


def _backward_like(
    g: Tensor, x: Tensor, W: Tensor, b: Tensor, f: Tensor, kappa: float, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tensors of the shapes and types of what ``backward`` returns, for tracing."""
    shapes = [x.shape[0], W.shape[1]], [W.shape[0], W.shape[1]], [W.shape[0]]
    dx, dW, db = (x.new_empty(s if w else [0]) for s, w in zip(shapes, wanted, strict=True))
    return dx, dW, db


_forward = register(
    "affine_like",
    "(Tensor x, Tensor W, Tensor b, float kappa) -> (Tensor, Tensor)",
    forward,
    _forward_like,
)
_backward = register(
    "affine_like_backward",
    "(Tensor g, Tensor x, Tensor W, Tensor b, Tensor f, float kappa, bool[] wanted) -> (Tensor, Tensor, Tensor)",
    backward,
    _backward_like,
)
_passes = Passes(plain.AffineLike, plain.AffineLike, 3, 1, (0, 1, 2))
derive(_forward, _backward, _passes)


class AffineLikeReverse(plain.AffineLikeReverse):
    """The map, computed by the kernels above; reverse mode only, which is what ``torch.compile`` can trace."""

    @staticmethod
    def forward(x: Tensor, W: Tensor, b: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
        """Return the output and the row scale."""
        z, f = _forward(x, W, b, kappa)
        return z, f

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to ``x``, ``W`` and ``b``, None where not needed, and None for kappa."""
        if torch.is_grad_enabled():  # second derivatives need operations that autograd supports
            known: tuple[Tensor | None, ...] = plain.AffineLikeReverse.backward(ctx, g, None)
            return known
        x, W, b, f = ctx.saved_tensors
        kappa, wanted = ctx.kappa, ctx.needs_input_grad[:-1]
        found = _backward(g, x, W, b, f, kappa, wanted)
        return (*(d if w else None for d, w in zip(found, wanted, strict=True)), None)


class AffineLike(AffineLikeReverse, plain.AffineLike):
    """The same map with tangents, for forward mode."""

    backward = staticmethod(outside_autocast(AffineLikeReverse.backward))
