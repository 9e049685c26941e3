"""Arrange a layer's input as rows and its output as units; each use of the parameters is one row.

Axes of results: group, row, entry (of inputs) or unit (of outputs). Layers without groups have one group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shape(StrEnum):
    """The form of a layer's input."""

    ROWS = "rows"  # (.., features)
    TOKENS = "tokens"  # integers of any shape
    BAGS = "bags"  # integers (bags, tokens); the row of a bag is its weight for each table row
    PATCHES = "patches"  # (batch, channels, *space)


_CHOSEN = 64  # rows with which all rows are multiplied at once
_KEPT = 1 << 10  # most cached sets of positions; layers of one size share them
_BLOCK = 1 << 23  # entries of rows that are unfolded at once


def rows_of(shape: Shape, module: Any, x: Tensor) -> Tensor:
    """Return the rows (groups, rows, entries) of an input; for tokens (1, rows)."""
    if shape is Shape.TOKENS:
        return x.reshape(1, -1)
    if shape is Shape.BAGS:
        return _shares_of_table(module, x)
    if shape is Shape.ROWS:
        return _centred(module, x.reshape(1, -1, x.shape[-1]))
    return _centred(module, _patches(module, batched(shape, module, x)))


def units_of(shape: Shape, module: Any, z: Tensor) -> Tensor:
    """Return the units (groups, rows, units) of an output, in the order of the rows."""
    if shape is not Shape.PATCHES:
        return z.reshape(1, -1, z.shape[-1])
    z = batched(shape, module, z)
    by_group = z.reshape(z.shape[0], module.groups, z.shape[1] // module.groups, -1)
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def factors_of(shape: Shape, module: Any, factors: Tensor) -> Tensor:
    """Return self factors as (groups, rows), in the order of the rows."""
    if shape is not Shape.PATCHES or module.groups == 1:
        return factors.reshape(1, -1)
    axes = len(module.kernel_size)
    with_batch = factors if factors.dim() == 2 + axes else factors.unsqueeze(0)
    return with_batch.movedim(1, 0).flatten(1)


def batched(shape: Shape, module: Any, x: Tensor) -> Tensor:
    """Return images with a batch axis in front, other inputs unchanged."""
    return x.unsqueeze(0) if shape is Shape.PATCHES and x.dim() == 1 + len(module.kernel_size) else x


def flat(shape: Shape, module: Any, x: Tensor) -> Tensor:
    """Return an input as independent entries, (rows, features), (tokens), or a batch of images."""
    if shape in (Shape.ROWS, Shape.BAGS):
        return x.reshape(-1, x.shape[-1])
    return x.reshape(-1) if shape is Shape.TOKENS else batched(shape, module, x)


def blocks(shape: Shape, module: Any, x: Tensor) -> Iterator[Tensor]:
    """Yield the rows of an input in blocks, so that patches do not fill the memory."""
    entries = flat(shape, module, x)
    width = module.weight[0].numel() if shape is Shape.PATCHES else math.prod(entries.shape[1:])
    width = module.num_embeddings if shape is Shape.BAGS else width
    if shape is Shape.PATCHES:  # the kernel block there is as large
        width = max(width, module.groups * _CHOSEN)
    places = math.prod(entries.shape[2:]) if shape is Shape.PATCHES else 1
    for part in entries.split(max(1, _BLOCK // max(1, width * places))):
        yield rows_of(shape, module, part)


def by_axis(place: Any, shape: Sequence[int]) -> list[Any]:
    """Return flat positions (a number or a tensor) as positions along each axis of a shape."""
    return [place // math.prod(shape[axis + 1 :]) % length for axis, length in enumerate(shape)]


def evenly(count: int, wanted: int, device: torch.device) -> Tensor:
    """Return at most ``wanted`` positions spread evenly over ``range(count)``; cached, do not modify."""
    return (_evenly if wanted <= _KEPT else _evenly.__wrapped__)(count, wanted, device)


@lru_cache(maxsize=256)
def _evenly(count: int, wanted: int, device: torch.device) -> Tensor:
    return torch.linspace(0, count - 1, min(count, wanted), device=device).round().long().unique()


def _shares_of_table(module: Any, x: Tensor) -> Tensor:
    """Return the weight of each table row in each bag, for a sum or a mean: (1, bags, V)."""
    counts = torch.zeros(len(x), module.num_embeddings, dtype=torch.float64, device=x.device)
    counts.scatter_add_(1, x, torch.ones_like(x, dtype=counts.dtype))
    if module.padding_idx is not None:
        counts[:, module.padding_idx] = 0
    return (counts / counts.sum(1, keepdim=True).clamp_min(1) if module.mode == "mean" else counts).unsqueeze(0)


def _centred(module: Any, rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True) if getattr(module, "center", False) else rows


def _patches(module: Any, x: Tensor) -> Tensor:
    """Return the window of each position of a convolution, (groups, batch and positions, entries)."""
    axes = len(module.kernel_size)
    image, stride = _stretched(module, x) if is_transposed(module) else (padded(module, x), module.stride)
    for axis in range(axes):
        reach = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        image = image.unfold(2 + axis, reach, stride[axis])[..., :: module.dilation[axis]]
    batch, channels = image.shape[:2]
    image = image.reshape(batch, module.groups, channels // module.groups, *image.shape[2:])
    positions, kernel = range(3, 3 + axes), range(3 + axes, 3 + 2 * axes)
    ordered = image.permute(1, 0, *positions, 2, *kernel)
    return ordered.flatten(2 + axes).flatten(1, 1 + axes)


def is_transposed(module: nn.Module) -> bool:
    """Whether a convolution is transposed."""
    return "Transpose" in type(module).__name__ or bool(getattr(module, "transposed", False))


def padded(module: Any, x: Tensor) -> Tensor:
    """Return images with the convolution's padding."""
    ends = module._ends if hasattr(module, "_ends") else module._reversed_padding_repeated_twice
    return F.pad(x, ends, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)


def _stretched(module: Any, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return the input for which a transposed convolution is an ordinary one: with zeros between and around entries."""
    lengths = [(length - 1) * step + 1 for length, step in zip(x.shape[2:], module.stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *lengths)
    grid: tuple[slice, ...] = tuple(slice(None, None, step) for step in module.stride)
    wide[(slice(None), slice(None), *grid)] = x
    ends = []
    for axis in reversed(range(len(lengths))):
        before = module.dilation[axis] * (module.kernel_size[axis] - 1) - module.padding[axis]
        ends += [before, before + module.output_padding[axis]]
    return F.pad(wide, ends), (1,) * len(lengths)
