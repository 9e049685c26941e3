"""Hand-written maps of rows, and of patches as rows; an undefined scale (of a zero row) is set to zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEFT = torch.finfo(torch.float64).eps ** 0.75  # a remaining share of a sum of squares this small may be rounding error


def mapped_rows(form: str, u: Tensor, W: Tensor, b: Tensor | None, kappa: float, *, centred: bool = False) -> Tensor:
    """Return a map of rows u (.., n) under W (m, n) and b (m): (.., m), in the type of ``u``."""
    whole = u.square().sum(-1, keepdim=True)
    v = u - u.mean(-1, keepdim=True) if centred else u
    energy = v.square().sum(-1, keepdim=True)
    product = v @ W.T
    if form == "affine-like":
        assert b is not None
        return math.sqrt(kappa) * (product + b) / (energy + 1).sqrt()
    alive = energy > (whole * _LEFT if centred else 0.0)
    scale = math.sqrt(kappa if b is None else kappa - 1) / torch.where(alive, energy, 1.0).sqrt()
    z = torch.where(alive, scale, 0.0) * product
    return z if b is None else z + b


def mapped_patches(form: str, u: Tensor, W: Tensor, b: Tensor | None, kappa: float, *, centred: bool) -> Tensor:
    """Return a map of patches u (B, G, *P, n) under W (G, O, n) and b (G, O): (B, G, O, *P)."""
    biases = [None] * len(W) if b is None else list(b)
    groups = [mapped_rows(form, u[:, g], W[g], biases[g], kappa, centred=centred) for g in range(len(W))]
    return torch.stack(groups, 1).movedim(-1, 2)
