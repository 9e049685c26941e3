"""Rows of unit length for QK-norm on CUDA, by ``unit.cu``: one launch for queries and keys.

    y[s,j] = x[s,j]/sqrt(q[s])
    q[s] = sum[j](x[s,j]**2)

Second derivatives, tangents and empty tensors are left to ``kernels.torch.unit``.

Derivation (SHA-256 of the map): fd83bd9f90bc43402920e6a470375944deedef859c1b9e894fcdcc94303040fb
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...runtime.operands import check_launch, outside_autocast
from ...runtime.operators import complete, complete_gradients, register
from ..torch import unit as plain
from .runtime.launch import Source

KERNELS = Source(Path(__file__).with_suffix(".cu"))
_THREADS, _WARP, _CHUNK = 128, 32, 16  # threads per block; at most per row; bytes that a thread moves at once


def forward(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries (N, H, L, d) and keys (N, H, S, d) scaled to unit length, each with its ``f`` (.., 1)."""
    check_launch(q, q.shape, (k, (*q.shape[:2], k.shape[2], q.shape[3]), q.dtype))
    if not (q.numel() and k.numel()):
        found: tuple[Tensor, Tensor, Tensor, Tensor] = plain.UnitPairReverse.forward(q, k)
        return found
    u_q, f_q, u_k, f_k = _forward_like(q, k)
    _launch("unit_forward", q, [f_q.numel(), f_k.numel()], [(_side_by_side(q), u_q, f_q), (_side_by_side(k), u_k, f_k)])
    return u_q, f_q, u_k, f_k


def backward(
    g_q: Tensor, u_q: Tensor, f_q: Tensor, g_k: Tensor, u_k: Tensor, f_k: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to queries and keys, an empty tensor for each that is not wanted."""
    for g, u, f in ((g_q, u_q, f_q), (g_k, u_k, f_k)):
        check_launch(u, u.shape, (g, u.shape, u.dtype), (f, (*u.shape[:3], 1), torch.promote_types(u_q.dtype, torch.float32)))
    check_launch(u_q, u_q.shape, (u_k, (*u_q.shape[:2], u_k.shape[2], u_q.shape[3]), u_q.dtype))
    d_q, d_k = _backward_like(g_q, u_q, f_q, g_k, u_k, f_k, wanted)
    sides = [
        (_side_by_side(g), _side_by_side(u), d if w else u, f.contiguous())
        for g, u, d, f, w in zip((g_q, g_k), (u_q, u_k), (d_q, d_k), (f_q, f_k), wanted, strict=True)
    ]
    _launch("unit_backward", u_q, [f.numel() if w else 0 for f, w in zip((f_q, f_k), wanted, strict=True)], sides)
    return d_q, d_k


def _launch(name: str, like: Tensor, rows: Sequence[int], sides: Sequence[tuple[Tensor, ...]]) -> None:
    """Launch a kernel over the rows of queries and keys; tensors are in the order of its arguments, ``f`` last."""
    if not any(rows):
        return
    heads, width = like.shape[1], like.shape[3]
    chunks = -(-width // (_CHUNK // like.itemsize))
    lanes = min(_WARP, 1 << (chunks - 1).bit_length())
    height = _THREADS // lanes
    arguments: list[Any] = [ctypes.c_longlong(heads), ctypes.c_longlong(width)]
    for count, (*matrices, numbers) in zip(rows, sides, strict=True):
        arguments += [ctypes.c_longlong(count), ctypes.c_longlong(max(1, numbers.shape[2]))]
        for tensor in matrices:
            arguments += [tensor.data_ptr(), *(ctypes.c_longlong(s) for s in tensor.stride()[:3])]
        arguments.append(numbers.data_ptr())
    KERNELS.on(like).launch(name, (-(-max(rows) // height), len(sides)), (lanes, height), arguments)


def _side_by_side(tensor: Tensor) -> Tensor:
    """Return the tensor, copied if the entries of a row are not contiguous."""
    return tensor if tensor.shape[-1] == 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _forward_like(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tensors of the shapes, strides and types of what ``forward`` returns."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    (u_q, f_q), (u_k, f_k) = ((_rows_like(x), x.new_empty([*x.shape[:-1], 1], dtype=dtype)) for x in (q, k))
    return u_q, f_q, u_k, f_k


def _backward_like(
    g_q: Tensor, u_q: Tensor, f_q: Tensor, g_k: Tensor, u_k: Tensor, f_k: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Return tensors of the shapes, strides and types of what ``backward`` returns."""
    d_q, d_k = (_rows_like(u) if w else u.new_empty(0) for u, w in zip((u_q, u_k), wanted, strict=True))
    return d_q, d_k


def _rows_like(x: Tensor) -> Tensor:
    """Return a tensor like another with contiguous rows, in the order of its tokens."""
    like = torch.empty_like(x)
    return like if x.shape[-1] == 1 or like.stride(-1) == 1 else x.new_empty(x.shape)


_forward = register(
    "cuda_unit_pair", "(Tensor q, Tensor k) -> (Tensor, Tensor, Tensor, Tensor)", forward, _forward_like
)
_backward = register(
    "cuda_unit_pair_backward",
    "(Tensor g_q, Tensor u_q, Tensor f_q, Tensor g_k, Tensor u_k, Tensor f_k, bool[] wanted) -> (Tensor, Tensor)",
    backward,
    _backward_like,
)


class UnitPairReverse(plain.UnitPairReverse):
    """The map, computed by the kernels of this file; reverse mode only, which is what ``torch.compile`` can trace."""

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
