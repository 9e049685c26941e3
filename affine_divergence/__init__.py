"""Layers that cancel the affine divergence: every sample's own gradient moves its own activation equally.

    AffineLike(n, m, ...)         The affine-like (non-normalising) solution of the affine divergence
    NormLike(n, m, ...)           The norm-like (normalising) solution of the affine divergence
    functional                    the same as functions of tensors
    AffineLikeMultiheadAttention  multi-head attention with affine-like projections
    convert, revert               replace torch's layers, and undo it
    lora_config(config)           LoRA on these layers through peft, with an exact merge
    record, restore               save a conversion with the weights
    ColwiseParallel, ...          styles of tensor parallelism for these layers
    PatchNormConv2d, ...          convolutions that divide each patch by its length
    self_factor(module, x)        K_ss of each sample, of torch's layers too

Generated from derivations, whose digests are in the files and in ``manifest.json``; depends only on torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import functional as functional
    from .attention import AffineLikeMultiheadAttention as AffineLikeMultiheadAttention
    from .conversion import convert as convert
    from .conversion import revert as revert
    from .adapters import lora_config as lora_config
    from .conversion import record as record
    from .conversion import restore as restore
    from .parallel import ColwiseParallel as ColwiseParallel
    from .parallel import RowwiseParallel as RowwiseParallel
    from .patch_modules import PatchNormConv1d as PatchNormConv1d
    from .patch_modules import PatchNormConv2d as PatchNormConv2d
    from .patch_modules import PatchNormConv3d as PatchNormConv3d
    from .patch_modules import PatchNormConvTranspose1d as PatchNormConvTranspose1d
    from .patch_modules import PatchNormConvTranspose2d as PatchNormConvTranspose2d
    from .patch_modules import PatchNormConvTranspose3d as PatchNormConvTranspose3d
    from .self_factors import self_factor as self_factor
    from .modules import AffineLike as AffineLike
    from .modules import NormLike as NormLike

_HOMES = {
    "functional": "",
    "AffineLikeMultiheadAttention": ".attention",
    "convert": ".conversion",
    "revert": ".conversion",
    "lora_config": ".adapters",
    "record": ".conversion",
    "restore": ".conversion",
    "ColwiseParallel": ".parallel",
    "RowwiseParallel": ".parallel",
    "PatchNormConv1d": ".patch_modules",
    "PatchNormConv2d": ".patch_modules",
    "PatchNormConv3d": ".patch_modules",
    "PatchNormConvTranspose1d": ".patch_modules",
    "PatchNormConvTranspose2d": ".patch_modules",
    "PatchNormConvTranspose3d": ".patch_modules",
    "self_factor": ".self_factors",
    "AffineLike": ".modules",
    "NormLike": ".modules",
}

__all__ = ["AffineLike", "AffineLikeMultiheadAttention", "ColwiseParallel", "NormLike", "PatchNormConv1d", "PatchNormConv2d", "PatchNormConv3d", "PatchNormConvTranspose1d", "PatchNormConvTranspose2d", "PatchNormConvTranspose3d", "RowwiseParallel", "convert", "functional", "lora_config", "record", "restore", "revert", "self_factor"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package is fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    if not _HOMES[name]:
        return import_module(f".{name}", __name__)
    return getattr(import_module(_HOMES[name], __name__), name)
