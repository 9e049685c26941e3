"""Layers that cancel the affine divergence: every sample's own gradient moves its own activation equally.

    AffineLike(n, m, ...)         The affine-like (non-normalising) solution of the affine divergence
    NormLike(n, m, ...)           The norm-like (normalising) solution of the affine divergence
    functional                    the same as functions of tensors
    AffineLikeMultiheadAttention  multi-head attention with affine-like projections
    convert, revert               put them in the place of torch's, and back
    PatchNormConv2d, ...          convolutions that divide each patch by its length
    self_factor(module, x)        K_ss of each sample, of torch's layers too

Generated from derivations whose digests stand in the files and in ``manifest.json``; depends on torch only.
"""

from __future__ import annotations

from . import functional
from .attention import AffineLikeMultiheadAttention
from .conversion import convert, revert
from .modules import AffineLike, NormLike
from .patch_modules import PatchNormConv1d, PatchNormConv2d, PatchNormConv3d, PatchNormConvTranspose1d, PatchNormConvTranspose2d, PatchNormConvTranspose3d
from .self_factors import self_factor

__all__ = ["AffineLike", "AffineLikeMultiheadAttention", "NormLike", "PatchNormConv1d", "PatchNormConv2d", "PatchNormConv3d", "PatchNormConvTranspose1d", "PatchNormConvTranspose2d", "PatchNormConvTranspose3d", "convert", "functional", "revert", "self_factor"]
