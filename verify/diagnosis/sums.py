"""Sums over large tensors, block by block: a block stays in the cache, and no large temporary is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

_PART = 1 << 18
_WIDE = (torch.float32, torch.float64)
_SMALL, _LARGE = 1e-30, 1e36  # float32 squares outside this range lose digits


def squared(tensor: Tensor) -> float:
    """Return the sum of squares."""
    return inner(tensor, tensor)


def inner(one: Tensor, other: Tensor) -> float:
    """Return the sum of products of two tensors of equal size, in float64 if float32 would overflow."""
    kind = one.dtype
    if kind is not other.dtype or kind not in _WIDE:
        kind = torch.promote_types(torch.promote_types(kind, other.dtype), torch.float32)
    found = _inner(one, other, kind)
    if kind != torch.float64 and one.numel() and not _SMALL < abs(found) < _LARGE:
        return _inner(one, other, torch.float64)
    return found


def _inner(one: Tensor, other: Tensor, kind: torch.dtype) -> float:
    if one.numel() <= _PART:
        flat = one.detach().reshape(-1).to(kind)
        return float(torch.dot(flat, flat if other is one else other.detach().reshape(-1).to(kind)))
    return sum(_inner(a, b, kind) for a, b in zip(parts_of(one), parts_of(other), strict=True))


def squares_of(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the sum of squares of each tensor of plain real numbers by name; others are left out.

    Tensors of one type on one device are read in one call.
    """
    plain = {name: t.detach() for name, t in tensors.items() if _is_plain(t)}
    groups: dict[tuple[torch.dtype, torch.device], dict[str, tuple[Tensor, ...]]] = {}
    for name, t in plain.items():
        if t.dtype in _WIDE and t.numel():
            groups.setdefault((t.dtype, t.device), {})[name] = tuple(parts_of(t))
    found: dict[str, float] = {}
    for group in groups.values():
        norms = torch._foreach_norm([part for parts in group.values() for part in parts])
        squares = iter(torch.stack(norms).double().square().tolist())
        found.update((name, math.fsum(next(squares) for _ in parts)) for name, parts in group.items())
    return {n: found[n] if _SMALL < found.get(n, 0.0) < _LARGE else squared(t) for n, t in plain.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a plain strided floating-point tensor with storage, and not of a subclass."""
    ours = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and tensor.device.type != "meta"
    return ours and tensor.is_floating_point()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; plain tensors are compared bit for bit, so NaN equals NaN."""
    pair = [t.detach() for t in (one, other)]
    plain = one.shape == other.shape and one.dtype is other.dtype and all(_is_plain(t) and _is_whole(t) for t in pair)
    if plain:  # compared eight bytes at a time, in half the time of comparing numbers
        pair = [t.reshape(-1).view(torch.int64) for t in pair]
    return torch.equal(*pair)


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is contiguous and fills whole words of eight bytes."""
    words = tensor.numel() * tensor.element_size(), tensor.storage_offset() * tensor.element_size()
    return tensor.is_contiguous() and not any(word % 8 for word in words)


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of a tensor in order, block by block."""
    flat = tensor.detach().reshape(-1)
    return iter(flat.split(_PART) if flat.numel() > _PART else (flat,))


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def all_finite(tensor: Tensor) -> bool:
    """Whether every number is finite; if their sum is, they all are, otherwise each one is checked."""
    plain = tensor.detach()
    return bool(plain.sum().isfinite()) or bool(plain.isfinite().all())
