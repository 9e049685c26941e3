"""Bring the arrays of a layer from a file into the layout of ``patches``, and its output back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from .patches import Geometry, reach

Places = tuple[int | None, ...]


class Windows(NamedTuple):
    """A layer as a convolution: its settings, one per axis of space, and the positions of its axes.

    ``lengths`` are the output's, which may be shorter than the input allows. ``x``, ``weight``, ``bias`` and ``z`` map
    the axes of a convolution's arrays to the layer's own, None for a missing one.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    lengths: tuple[int, ...]
    x: Places
    weight: Places
    bias: Places
    z: Places
    transposed: bool

    def laid_out(self, arrays: Sequence[Array]) -> tuple[list[Array], tuple[Geometry]]:
        """Return input, filter and optionally bias in the layout of a map of patches, and its settings after kappa."""
        image, weight = _placed(arrays[0], self.x, 1), _placed(arrays[1], self.weight)
        kernel = tuple(weight.shape[3:])
        image, geometry = self._lengthened(image, kernel) if self.transposed else self._fitted(image, kernel)
        axes = (*self.bias, *[None] * len(kernel))
        return [image, weight, *(_placed(b, axes) for b in arrays[2:])], (geometry,)

    def given_back(self, z: Array, batch: int) -> Array:
        """Return the output (batch, groups, channels, *space) in the layer's layout."""
        z = z[(slice(None),) * 3 + tuple(slice(0, count) for count in self.lengths)]
        kept = [k for k, place in enumerate(self.z) if place is not None]
        z = z.reshape(batch, *(z.shape[1 + k] for k in kept))
        return z.transpose(0, *(1 + kept.index(self.z.index(place)) for place in range(len(kept))))

    def _fitted(self, x: Array, kernel: tuple[int, ...]) -> tuple[Array, Geometry]:
        """Return an input padded with zeros or cropped so that the output has the layer's length."""
        numbers = zip(self.lengths, kernel, self.stride, self.dilation, self.padding, x.shape[3:], strict=True)
        ends = [
            (pad, step * (count - 1) + hole * (length - 1) + 1 - pad - there)
            for count, length, step, hole, pad, there in numbers
        ]
        none = (0,) * len(kernel)
        return _padded(x, ends), Geometry(kernel, self.stride, none, self.dilation, none)

    def _lengthened(self, x: Array, kernel: tuple[int, ...]) -> tuple[Array, Geometry]:
        """Return an input padded so that its transposed convolution is at least as long as the layer's output."""
        before = [max(-(pad // step), 0) for pad, step in zip(self.padding, self.stride, strict=True)]
        padding = tuple(p + step * n for p, step, n in zip(self.padding, self.stride, before, strict=True))
        geometry = Geometry(kernel, self.stride, padding, self.dilation, (0,) * len(kernel))
        least = reach([n + more for n, more in zip(x.shape[3:], before, strict=True)], geometry)
        after = [
            max(-((n - count) // step), 0) for count, n, step in zip(self.lengths, least, self.stride, strict=True)
        ]
        return _padded(x, list(zip(before, after, strict=True))), geometry


def _padded(x: Array, ends: Sequence[tuple[int, int]]) -> Array:
    """Return an image padded with zeros in space; negative ends crop it."""
    if not any(any(pair) for pair in ends):
        return x
    found: Array = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 3 + [(*pair, 0) for pair in ends])
    return found


def _placed(array: Array, places: Places, lead: int = 0) -> Array:
    """Return an array with its axes after the first ``lead`` permuted; missing ones get length 1."""
    array = array.transpose(*range(lead), *(lead + place for place in places if place is not None))
    for axis, place in enumerate(places, start=lead):
        array = jnp.expand_dims(array, axis) if place is None else array
    return array
