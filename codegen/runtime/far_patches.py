"""Patches so long that their products leave the range of float32: *far* ones, which are computed in float64.

Its range holds all that is made of numbers of float32. A far patch is known by its scale, which is kept in a unit of
its own and negative; all other patches, and images without a far one, keep their bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .rows import is_visible

_FAR = 2.0**-60  # a positive scale below it is that of a far patch
_UNIT = 2.0**-80  # in which that is kept


def with_far_patches(
    z: Tensor, f: Tensor, x: Tensor, exact: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the output and the scales (B, G, 1, *P), where patches are far those that ``exact`` gives in float64."""
    if not _may_be_far(x) or not f.numel() or f.min().item() >= _FAR or not ((f < _FAR) & (f > 0)).any():
        return z, f
    right, wide_f = exact()
    far = (wide_f > 0) & (wide_f < _FAR)
    return torch.where(far, right.to(z.dtype), z), torch.where(far, (-wide_f / _UNIT).to(f.dtype), f)


def has_far_patches(f: Tensor) -> bool:
    """Return whether scales that were kept hold any of far patches."""
    if not is_visible(f) or not f.numel():
        return False
    least = f.min().item()
    return least < 0 or (math.isnan(least) and bool((f < 0).any()))


def true_scale(f: Tensor) -> Tensor:
    """Return scales that were kept in float64, where they have no unit."""
    f = f.double()
    return torch.where(f < 0, f * -_UNIT, f)


def with_far_images(found: Sequence[Tensor | None], exact: Sequence[Tensor | None], f: Tensor) -> list[Tensor | None]:
    """Return gradients by ``x`` and parameters: exact ones of images with a far patch, and of what sums over images."""
    far = (f < 0).flatten(1).any(1).view(-1, *[1] * (f.dim() - 1))
    dx, *others = (None if d is None or e is None else (d, e.to(d.dtype)) for d, e in zip(found, exact, strict=True))
    return [None if dx is None else torch.where(far, dx[1], dx[0]), *(None if d is None else d[1] for d in others)]


def _may_be_far(x: Tensor) -> bool:
    """Return whether patches of ``x`` may be far and are visible; those of float16 never are."""
    return x.dtype in (torch.float32, torch.bfloat16) and is_visible(x)
