"""Entries of tensors at computed positions, and the transpose: adding entries up at their positions."""

from __future__ import annotations

import torch
from torch import Tensor


def take(source: Tensor, axis: int, *positions: Tensor | int, filled: bool = True) -> Tensor:
    """Return the entries of ``source`` at positions along the axes from ``axis`` on, one tensor of integers an axis.

    The axes of the positions, broadcast, stand in place of those. What lies outside is zero, or without ``filled`` the
    entry nearest to it.
    """
    places, inside = _places(positions, source.shape[axis : axis + len(positions)], source.device)
    found = source[(slice(None),) * axis + places]
    return found.masked_fill(~_lined_up(inside, found.dim() - axis), 0) if filled else found


def put(values: Tensor, axis: int, lengths: tuple[int, ...], *positions: Tensor | int) -> Tensor:
    """Return ``values`` added up at positions along axes of these lengths; what lies outside is left out.

    It is the transpose of ``take``: the axes of the positions stand in ``values`` from ``axis`` on.
    """
    places, inside = _places(positions, lengths, values.device)
    grid = range(axis, axis + inside.dim())
    kept = values.masked_fill(~_lined_up(inside, values.dim() - axis), 0).movedim(tuple(grid), tuple(range(len(grid))))
    total = values.new_zeros((*lengths, *kept.shape[len(grid) :]))
    total = total.index_put(places, kept, accumulate=True)
    return total.movedim(tuple(range(len(lengths))), tuple(range(axis, axis + len(lengths))))


def quotient(above: Tensor, below: int) -> Tensor:
    """Return the quotient of integers where it is one, and -1, which is no position, elsewhere."""
    return torch.where(above % below == 0, above // below, -1)


def within(position: Tensor | int, length: int) -> Tensor:
    """Return where a position lies inside an axis of that length."""
    return torch.as_tensor((position >= 0) & (position < length))


def _places(
    positions: tuple[Tensor | int, ...], lengths: tuple[int, ...], device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the positions, moved inside, on one grid, and where all of them were inside."""
    each = [torch.as_tensor(position, device=device) for position in positions]
    grid: list[Tensor] = torch.broadcast_tensors(*each)  # type: ignore[no-untyped-call]
    inside = torch.ones_like(grid[0], dtype=torch.bool)
    for position, length in zip(grid, lengths, strict=True):
        inside = inside & (position >= 0) & (position < length)
    return tuple(p.clamp(0, n - 1) for p, n in zip(grid, lengths, strict=True)), inside


def _lined_up(inside: Tensor, axes: int) -> Tensor:
    """Return the tensor with axes of length 1 behind its own, ``axes`` in all."""
    return inside.reshape((*inside.shape, *(1 for _ in range(axes - inside.dim()))))
