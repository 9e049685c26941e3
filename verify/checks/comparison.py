"""Results of the two sides of a comparison, and the distance between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

Named = Mapping[str, Tensor]
Side = Callable[[Named], Tensor]
_LEAST_SHARE = 1e-3  # a result this much smaller than the others of its instance is cancellation error


def gradients(side: Side, values: Named, g: Tensor, wanted: Sequence[str], *, recorded: bool = False) -> list[Tensor]:
    """Return the output, then the gradients of ``sum(g z)`` with respect to the wanted tensors alone."""
    leaves = {name: t.detach().requires_grad_(name in wanted) for name, t in values.items()}
    z = side(leaves)
    if not wanted:
        return [z]
    return [z, *torch.autograd.grad(z, [leaves[n] for n in wanted], g, create_graph=recorded)]


def distance(found: Iterable[Tensor], wanted: Iterable[Tensor], *, ordinary: bool = True) -> float:
    """Return the largest difference of two lists of results, each relative to the largest entry of its result.

    Infinite if shapes differ or an entry is not finite. With ``ordinary``, a result much smaller than the others is
    scaled by a thousandth of the largest instead of its own largest entry.
    """
    found, wanted = list(found), list(wanted)
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return float("inf")
    sizes = [float(t.detach().abs().max()) if t.numel() else 0.0 for t in wanted]
    floor = _LEAST_SHARE * max(sizes, default=0.0) if ordinary else 0.0
    worst = 0.0
    for a, b, size in zip(found, wanted, sizes, strict=True):
        if not a.numel():
            continue
        difference = float((a.detach().double() - b.detach().double()).abs().max())
        scale = max(size, floor)
        if not difference < float("inf"):
            return float("inf")
        worst = max(worst, difference / scale if scale else difference and float("inf"))
    return worst
