"""Hand-written references in torch operations, from the geometry rather than from the derivation.

affine-like applies the weight [W, b] to the homogeneous input [x; 1] normalised to unit length; norm-like applies W to
the normalised x, then adds the bias. A convolution does the same to every patch, which is cut out by slicing. Tensors
have the axes of the derivation; features are the last axis of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import normalize

Named = Mapping[str, Tensor]


def affine_like(x: Tensor, weight: Tensor, bias: Tensor | None, kappa: float) -> Tensor:
    """Return the affine-like map of rows: (.., n) -> (.., m)."""
    assert bias is not None
    homogeneous = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    return math.sqrt(kappa) * normalize(homogeneous, dim=-1, eps=0.0) @ torch.cat([weight, bias[:, None]], dim=1).T


def norm_like(x: Tensor, weight: Tensor, bias: Tensor | None, kappa: float) -> Tensor:
    """Return the norm-like map of rows: (.., n) -> (.., m)."""
    left_for_weights = kappa if bias is None else kappa - 1
    z = math.sqrt(left_for_weights) * normalize(x, dim=-1) @ weight.T
    return z if bias is None else z + bias


ROWS = {"affine-like": affine_like, "norm-like": norm_like}


def centred(x: Tensor) -> Tensor:
    """Return rows minus their means."""
    return x - x.mean(-1, keepdim=True)


def patches(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return the patches of zero-padded images (B, G, C, *L) as rows (B, G, *P, C * K); negative padding crops."""
    x = F.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
    for axis, (k, step, hole) in enumerate(zip(kernel, stride, dilation, strict=True), start=3):
        x = x.unfold(axis, hole * (k - 1) + 1, step)[..., ::hole]
    axes = len(kernel)
    return x.movedim(2, 2 + axes).flatten(2 + axes)


def patch_map(form: str, u: Tensor, W: Tensor, b: Tensor | None, kappa: float, centre: bool) -> Tensor:
    """Return a map of patches u (B, G, *P, n) under W (G, O, C, *K) and b (G, O): (B, G, O, *P)."""
    maps = _CENTRED if centre else ROWS
    biases = [None] * len(W) if b is None else list(b)
    groups = [maps[form](u[:, g], W[g].flatten(1), biases[g], kappa) for g in range(len(W))]
    return torch.stack(groups, 1).movedim(-1, 2)


def by_moments(x: Tensor, weight: Tensor, bias: Tensor | None, kappa: float, *, whole: bool) -> Tensor:
    """Return a map of centred rows, which also scales the bias if ``whole``: (.., n) -> (.., m).

    The energy of a centred row is the difference of its two moments, as a box filter computes it. If all entries are
    nearly equal, only the moments' rounding error remains, so the reference for such a layer must use the same formula.
    """
    mean = x.mean(-1, keepdim=True)
    energy = x.square().sum(-1, keepdim=True) - x.shape[-1] * mean.square()
    z, offset = (x - mean) @ weight.T, 0.0 if bias is None else bias
    if whole:
        return math.sqrt(kappa) * (z + offset) / (energy + 1).sqrt()
    return math.sqrt(kappa if bias is None else kappa - 1) * z / energy.sqrt() + offset


_CENTRED = {"affine-like": partial(by_moments, whole=True), "norm-like": partial(by_moments, whole=False)}


def spaced(x: Tensor, stride: Sequence[int], extra: Sequence[int]) -> Tensor:
    """Return images (B, G, C, *L) with ``stride - 1`` zeros between neighbours and ``extra`` zeros at the end."""
    for axis, (step, more) in enumerate(zip(stride, extra, strict=True), start=3):
        length = (x.shape[axis] - 1) * step + 1
        wide = x.new_zeros(*x.shape[:axis], length + more, *x.shape[axis + 1 :])
        x = wide.index_copy(axis, torch.arange(0, length, step, device=x.device), x)
    return x


def heads(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return ordinary projections (B, R, T, d) of tokens (B, T, n) under W (R, d, n) and b (R, d)."""
    return torch.einsum("stn,rdn->srtd", x, W) + b[None, :, None]


def affine_like_heads(x: Tensor, W: Tensor, b: Tensor, kappa: float = 1.0) -> Tensor:
    """Return affine-like projections (B, R, T, d) of tokens (B, T, n), or of tokens mixed per head (B, R, T, n)."""
    per_head = [affine_like(x if x.dim() == 3 else x[:, r], W[r], b[r], kappa) for r in range(len(W))]
    return torch.stack(per_head, 1)
