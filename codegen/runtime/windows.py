"""Bring the tensors of a layer from a file into the layout of ``patches``, and its output back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from .patches import Geometry, positions_of, reach

Places = tuple[int | None, ...]


class Windows(NamedTuple):
    """A layer as a convolution: its settings, one per axis of space, and the positions of its axes.

    ``lengths`` are the output's, which may be shorter than the input allows. ``x``, ``weight``, ``bias`` and ``z`` map
    the axes of a convolution's tensors to the layer's own, None for a missing one.
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

    def laid_out(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], tuple[Geometry, bool]]:
        """Return input, filter and optionally bias in the layout of a map of patches, and its settings after kappa."""
        image, weight = _placed(tensors[0], self.x, 1), _placed(tensors[1], self.weight)
        kernel = tuple(weight.shape[3:])
        image, geometry = self._lengthened(image, kernel) if self.transposed else self._fitted(image, kernel)
        axes = (*self.bias, *[None] * len(kernel))
        return [image, weight, *(_placed(b, axes) for b in tensors[2:])], (geometry, True)

    def given_back(self, z: Tensor, batch: int) -> Tensor:
        """Return the output (batch, groups, channels, *space) in the layer's layout."""
        for axis, count in enumerate(self.lengths, start=3):
            z = z.narrow(axis, 0, count) if z.shape[axis] > count else z
        kept = [k for k, place in enumerate(self.z) if place is not None]
        z = z.reshape(batch, *(z.shape[1 + k] for k in kept))
        order = [1 + kept.index(self.z.index(place)) for place in range(len(kept))]
        return z if order == sorted(order) else z.permute(0, *order)

    def _geometry(self, kernel: tuple[int, ...], padding: tuple[int, ...], extra: tuple[int, ...]) -> Geometry:
        return Geometry(kernel, self.stride, padding, self.dilation, extra)

    def _fitted(self, x: Tensor, kernel: tuple[int, ...]) -> tuple[Tensor, Geometry]:
        """Return an input padded with zeros or cropped so that the output has the layer's length."""
        none = (0,) * len(kernel)
        if min(self.padding) >= 0:
            geometry = self._geometry(kernel, self.padding, none)
            if positions_of(x.shape[3:], geometry) == self.lengths:
                return x, geometry
        numbers = zip(self.lengths, kernel, self.stride, self.dilation, strict=True)
        wanted = [step * (count - 1) + hole * (length - 1) + 1 for count, length, step, hole in numbers]
        ends = [n - pad - length for n, pad, length in zip(wanted, self.padding, x.shape[3:], strict=True)]
        around = [(max(pad, 0), max(end, 0)) for pad, end in zip(self.padding, ends, strict=True)]
        x = F.pad(x, [n for both in reversed(around) for n in both])
        for axis, (n, pad) in enumerate(zip(wanted, self.padding, strict=True), start=3):
            x = x.narrow(axis, max(-pad, 0), n)
        return x, self._geometry(kernel, none, none)

    def _lengthened(self, x: Tensor, kernel: tuple[int, ...]) -> tuple[Tensor, Geometry]:
        """Return an input padded so that its transposed convolution is at least as long as the layer's output."""
        before = [max(-(pad // step), 0) for pad, step in zip(self.padding, self.stride, strict=True)]
        padding = tuple(p + step * n for p, step, n in zip(self.padding, self.stride, before, strict=True))
        geometry = self._geometry(kernel, padding, (0,) * len(kernel))
        least = reach([n + more for n, more in zip(x.shape[3:], before, strict=True)], geometry)
        most = [max(step, hole) - 1 for step, hole in zip(self.stride, self.dilation, strict=True)]
        lacking = [count - n - m for count, n, m in zip(self.lengths, least, most, strict=True)]
        after = [max(-(-n // step), 0) for n, step in zip(lacking, self.stride, strict=True)]
        if any(before) or any(after):
            x = F.pad(x, [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair])
        ends = zip(self.lengths, reach(x.shape[3:], geometry), strict=True)
        return x, geometry._replace(extra=tuple(max(count - n, 0) for count, n in ends))


def _placed(t: Tensor, places: Places, lead: int = 0) -> Tensor:
    """Return a tensor with its axes after the first ``lead`` permuted; missing ones get length 1."""
    own = [lead + place for place in places if place is not None]
    if own != sorted(own):
        t = t.permute(*range(lead), *own)
    for axis, place in enumerate(places, start=lead):
        t = t.unsqueeze(axis) if place is None else t
    return t
