"""Bring the arrays of a layer from a file into the form of rows and a matrix, and its output back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from jax import Array


class RowLayout(NamedTuple):
    """The positions of sample, summed and unit axes in a layer's arrays.

    ``x``: sample axes, then summed axes (positions after the batch); ``weight``: unit axes, then summed axes; ``bias``:
    unit axes; ``z``: sample axes, then unit axes. ``samples`` and ``units`` are the lengths of these axes.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: tuple[int, ...]
    z: tuple[int, ...]
    samples: tuple[int, ...]
    units: tuple[int, ...]

    def laid_out(self, arrays: Sequence[Array]) -> tuple[list[Array], tuple[()]]:
        """Return input (batch and samples, n), matrix (m, n) and optionally vector (m), and no further settings."""
        rows = arrays[0].transpose(0, *(1 + place for place in self.x))
        length = math.prod(rows.shape[1 + len(self.samples) :])
        count = math.prod(rows.shape[: 1 + len(self.samples)])
        weight = arrays[1].transpose(self.weight).reshape(math.prod(self.units), length)
        vectors = [b.transpose(self.bias).reshape(math.prod(self.units)) for b in arrays[2:]]
        return [rows.reshape(count, length), weight, *vectors], ()

    def given_back(self, z: Array, batch: int) -> Array:
        """Return the output (batch and samples, m) in the layer's layout, after a batch axis of this length."""
        z = z.reshape(batch, *self.samples, *self.units)
        return z.transpose(0, *(1 + self.z.index(place) for place in range(len(self.z))))
