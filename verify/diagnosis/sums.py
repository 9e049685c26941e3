"""Sums over many numbers, a part at a time: a part stays in the processor's cache, and nothing large is allocated."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_PART = 1 << 18
_SMALL, _LARGE = 1e-30, 1e36  # squares in float32 outside of this range lose digits


def squared(tensor: Tensor) -> float:
    """Return the sum of squares."""
    return inner(tensor, tensor)


def inner(one: Tensor, other: Tensor) -> float:
    """Return the sum of products of two tensors of as many numbers, in float64 where float32 has no room for it."""
    kind = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    found = _inner(one, other, kind)
    if kind != torch.float64 and one.numel() and not _SMALL < abs(found) < _LARGE:
        return _inner(one, other, torch.float64)
    return found


def _inner(one: Tensor, other: Tensor, kind: torch.dtype) -> float:
    if one.numel() <= _PART:
        return float(torch.dot(one.detach().reshape(-1).to(kind), other.detach().reshape(-1).to(kind)))
    return sum(_inner(a, b, kind) for a, b in zip(parts_of(one), parts_of(other), strict=True))


def parts_of(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of a tensor in order, a part at a time."""
    flat = tensor.detach().reshape(-1)
    return iter(flat.split(_PART) if flat.numel() > _PART else (flat,))


def wide(tensor: Tensor) -> Tensor:
    """Return numbers of at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def all_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite: their sum then is neither; where it is, they are looked at one by one."""
    plain = tensor.detach()
    return bool(plain.sum().isfinite()) or bool(plain.isfinite().all())
