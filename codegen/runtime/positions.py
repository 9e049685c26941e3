"""Entries of tensors at computed positions, and the transpose: adding entries at their positions."""

from __future__ import annotations

import torch
from torch import Tensor


def take(source: Tensor, axis: int, *positions: Tensor | int, filled: bool = True) -> Tensor:
    """Return the entries of ``source`` at positions along the axes from ``axis`` on, one integer tensor per axis.

    The axes of the broadcast positions replace these axes. Entries outside are zero or, without ``filled``, the nearest
    entry inside.
    """
    places, inside = _places(positions, source.shape[axis : axis + len(positions)], source.device)
    found = source[(slice(None),) * axis + places]
    return found.masked_fill(~_lined_up(inside, found.dim() - axis), 0) if filled else found


def put(values: Tensor, axis: int, lengths: tuple[int, ...], *positions: Tensor | int) -> Tensor:
    """Return ``values`` added at positions along axes of these lengths; positions outside are ignored.

    This is the transpose of ``take``: in ``values`` the axes of the positions begin at ``axis``.
    """
    places, inside = _places(positions, lengths, values.device)
    grid = range(axis, axis + inside.dim())
    kept = values.masked_fill(~_lined_up(inside, values.dim() - axis), 0).movedim(tuple(grid), tuple(range(len(grid))))
    total = values.new_zeros((*lengths, *kept.shape[len(grid) :]))
    total = total.index_put(places, kept, accumulate=True)
    return total.movedim(tuple(range(len(lengths))), tuple(range(axis, axis + len(lengths))))


def quotient(above: Tensor, below: int) -> Tensor:
    """Return the quotient of integers where it is an integer, else -1, which is never a position."""
    return torch.where(above % below == 0, above // below, -1)


def within(position: Tensor | int, length: int) -> Tensor:
    """Return a mask of the positions inside an axis of that length."""
    return torch.as_tensor((position >= 0) & (position < length))


def _places(
    positions: tuple[Tensor | int, ...], lengths: tuple[int, ...], device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the positions clipped to their axes and broadcast, and a mask of those that were inside on every axis."""
    each = [torch.as_tensor(position, device=device) for position in positions]
    grid: list[Tensor] = torch.broadcast_tensors(*each)  # type: ignore[no-untyped-call]
    inside = torch.ones_like(grid[0], dtype=torch.bool)
    for position, length in zip(grid, lengths, strict=True):
        inside = inside & (position >= 0) & (position < length)
    return tuple(p.clamp(0, n - 1) for p, n in zip(grid, lengths, strict=True)), inside


def _lined_up(inside: Tensor, axes: int) -> Tensor:
    """Return the tensor with axes of length 1 appended, ``axes`` in all."""
    return inside.reshape((*inside.shape, *(1 for _ in range(axes - inside.dim()))))
