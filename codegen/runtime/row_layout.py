"""Bring the tensors of a layer from a file into the form of rows and a matrix, and its output back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class RowLayout(NamedTuple):
    """The positions of sample, summed and unit axes in a layer's tensors.

    ``x``: sample axes, then summed axes (positions after the batch); ``weight``: unit axes, then summed axes; ``bias``:
    unit axes; ``z``: sample axes, then unit axes. ``samples`` and ``units`` are the lengths of these axes.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: tuple[int, ...]
    z: tuple[int, ...]
    samples: tuple[int, ...]
    units: tuple[int, ...]

    def laid_out(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], tuple[()]]:
        """Return input (batch and samples, n), matrix (m, n) and optionally vector (m), and no further settings."""
        rows = _ordered(tensors[0], self.x, 1)
        count = math.prod(rows.shape[: 1 + len(self.samples)])
        length = math.prod(rows.shape[1 + len(self.samples) :])
        weight = _ordered(tensors[1], self.weight).reshape(math.prod(self.units), length)
        biases = [_ordered(b, self.bias).reshape(math.prod(self.units)) for b in tensors[2:]]
        return [rows.reshape(count, length), weight, *biases], ()

    def given_back(self, z: Tensor, batch: int) -> Tensor:
        """Return the output (batch and samples, m) in the layer's layout, after a batch axis of this length."""
        z = z.reshape(batch, *self.samples, *self.units)
        order = [1 + self.z.index(place) for place in range(len(self.z))]
        return z if order == sorted(order) else z.permute(0, *order)


def _ordered(t: Tensor, places: Sequence[int], lead: int = 0) -> Tensor:
    """Return a tensor with its axes after the first ``lead`` permuted."""
    order = [*range(lead), *(lead + place for place in places)]
    return t if order == sorted(order) else t.permute(order)
