"""Far images, with entries near the end of float32's range (see ``rows.FAR``), in maps by torch's operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .operands import Unpacked
from .rows import FAR, FarError, are_far, is_visible

_SMALL = 2.0**-40  # no patch with a larger scale is far, at any kappa


def look_for_far(x: Tensor) -> None:
    """Raise ``FarError`` if any float32 image is far; only on the CPU, where reading a value costs little."""
    if x.dtype == torch.float32 and x.numel() and is_visible(x):
        low, high = torch.aminmax(x)
        if not max(-low.item(), high.item()) < FAR and are_far(x).any():
            raise FarError


def gradients_beside_far(
    backward: Callable[..., Sequence[Tensor | None]], ctx: Any, saved: tuple[Any, ...], g: Tensor
) -> Sequence[Tensor | None] | None:
    """Return the gradients by ``backward``, for far images in float64; None if none is far or values are not visible.

    ``saved`` are the input, the parameters, the scale, and the kept value or None. Far images get here only if the
    forward pass was part of a graph; otherwise the forward pass has separated them.
    """
    x, *parameters, f, kept = saved
    if g.dtype != torch.float32 or not (f.numel() and is_visible(f)) or not f.masked_fill(f <= 0, 1).min() < _SMALL:
        return None
    far = are_far(x)
    if not far.any():
        return None
    near = torch.where(far, 1, x), *parameters, torch.where(far, 1, f), None if kept is None else kept.where(~far, 0)
    wide = *(t.double() for t in (x, *parameters, f)), None
    found = backward(Unpacked(ctx, near), torch.where(far, 0, g))
    more = backward(Unpacked(ctx, wide), torch.where(far, g, 0).double())
    both = [None if a is None or b is None else (a, b.to(a.dtype)) for a, b in zip(found, more, strict=True)]
    dx = None if both[0] is None else torch.where(far, both[0][1], both[0][0])
    return dx, *(None if pair is None else pair[0] + pair[1] for pair in both[1:])
