"""Find the samples, positions and features behind a layer's largest self factors, and whether they exceed chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verify.diagnosis.capture import Call
from verify.diagnosis.record import Extremes
from verify.diagnosis.samples import Shape, batched, by_axis

_TOLD = 3


def extremes(calls: Sequence[Call]) -> Extremes:
    """Return the largest self factors of a layer's first call by sample and position, and the largest features.

    The expected spread is that of Gaussian inputs with n independent entries per row of mean square v: a coefficient of
    variation of sqrt(2 n) v / (n v + 1), without the 1 if no bias is trained. A far larger spread means heavy tails or
    dependent entries.
    """
    call = calls[0]
    by_row = call.factors.float().amax(0)
    values, places = by_row.topk(min(_TOLD, by_row.numel()))
    shape = _sample_shape(call)
    known = math.prod(shape) == by_row.numel()
    positions = [by_axis(place, shape) if known else [place] for place in places.tolist()]
    deviation, mean = map(float, torch.std_mean(call.factors.float(), correction=0))
    variation = deviation / mean if mean > 0 else 0.0
    squares, entries = _features(call)
    share = squares / squares.sum().clamp_min(1e-38) if squares is not None else None
    top = [] if share is None else share.topk(min(_TOLD, len(share))).indices.tolist()
    return Extremes(
        largest=tuple(zip(positions, values.tolist(), strict=True)),
        features=tuple((k, float(share[k])) for k in top) if share is not None else (),
        variation=variation,
        expected=None if squares is None else _expected(float(squares.mean()), entries, call),
    )


def _sample_shape(call: Call) -> tuple[int, ...]:
    """Return the lengths of the sample axes: batch and position."""
    if call.site.shape is Shape.TOKENS:
        return tuple(call.x.shape)
    if call.site.shape in (Shape.ROWS, Shape.BAGS):
        return tuple(call.x.shape[:-1]) if call.site.shape is Shape.ROWS else (len(call.x),)
    images = len(batched(call.site.shape, call.site.view, call.x))
    if call.gradient is not None:
        return (images, *batched(call.site.shape, call.site.view, call.gradient).shape[2:])
    return (images, call.factors.shape[1] // max(images, 1))


def _features(call: Call) -> tuple[Tensor | None, int]:
    """Return the mean square of each feature (of images: channel), and the number of entries per row."""
    if not call.x.is_floating_point():
        return None, 0
    x = batched(call.site.shape, call.site.view, call.x)
    if call.site.shape is Shape.PATCHES:
        weight = call.site.view.weight
        assert isinstance(weight, Tensor)
        squares = torch.linalg.vector_norm(
            x.float().flatten(2), dim=2
        ).square()  # avoids a squared copy of the whole input
        return squares.mean(0) / math.prod(x.shape[2:]), weight[0].numel()
    return x.float().square().reshape(-1, x.shape[-1]).mean(0), x.shape[-1]


def _expected(square: float, entries: int, call: Call) -> float | None:
    total = entries * square + (1.0 if "bias" in call.site.trained else 0.0)
    plain = not call.site.law.map and not call.site.offsets_only
    return math.sqrt(2 * entries) * square / total if plain and total > 0 else None
