"""Entries of arrays at computed positions, and the transpose: adding entries at their positions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from .wide import Wide, in_units, normalised


def take(source: Any, axis: int, *positions: Array | int, filled: bool = True) -> Any:
    """Return the entries of ``source`` at positions along the axes from ``axis`` on, one integer array per axis.

    The axes of the broadcast positions replace these axes. Entries outside are zero or, without ``filled``, the nearest
    entry inside.
    """
    if isinstance(source, Wide):
        return source.moved(lambda array: take(array, axis, *positions, filled=filled))
    places, inside = _places(positions, source.shape[axis : axis + len(positions)])
    found = source[(slice(None),) * axis + places]
    return jnp.where(_lined_up(inside, found.ndim - axis), found, 0) if filled else found


def put(values: Any, axis: int, lengths: tuple[int, ...], *positions: Array | int) -> Any:
    """Return ``values`` added at positions along axes of these lengths; positions outside are ignored.

    This is the transpose of ``take``: in ``values`` the axes of the positions begin at ``axis``.
    """
    if isinstance(values, Wide):
        top = values.top(tuple(range(axis, values.exponent.ndim)))
        total = put(in_units(values, top), axis, lengths, *positions)
        return normalised(total, top.reshape(top.shape[:axis] + (1,) * (total.ndim - axis)), values.linear)
    places, inside = _places(positions, lengths)
    kept = jnp.where(_lined_up(inside, values.ndim - axis), values, 0)
    lead, rest = kept.shape[:axis], kept.shape[axis + inside.ndim :]
    total = jnp.zeros((*lead, *lengths, *rest), kept.dtype)
    return total.at[(slice(None),) * axis + places].add(kept)


def quotient(above: Array, below: int) -> Array:
    """Return the quotient of integers where it is an integer, else -1, which is never a position."""
    return jnp.where(above % below == 0, above // below, -1)


def within(position: Array | int, length: int) -> Any:
    """Return a mask of the positions inside an axis of that length."""
    return (position >= 0) & (position < length)


def _places(positions: tuple[Array | int, ...], lengths: tuple[int, ...]) -> tuple[tuple[Array, ...], Array]:
    """Return the positions clipped to their axes and broadcast, and a mask of those that were inside on every axis."""
    grid = jnp.broadcast_arrays(*(jnp.asarray(p) for p in positions))
    inside = jnp.ones(grid[0].shape, bool)
    for position, length in zip(grid, lengths, strict=True):
        inside = inside & within(position, length)
    return tuple(jnp.clip(p, 0, n - 1) for p, n in zip(grid, lengths, strict=True)), inside


def _lined_up(inside: Array, axes: int) -> Array:
    """Return the array with axes of length 1 appended, ``axes`` in all."""
    return inside.reshape((*inside.shape, *(1 for _ in range(axes - inside.ndim))))
