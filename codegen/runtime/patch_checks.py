"""What a caller of a convolution can get wrong in tensors: every message names the value, the cause and the mend."""

from __future__ import annotations

import torch
from torch import Tensor

from .patch_settings import WORDS, check_channels, check_weight

_SPREADS = torch.__version__ >= "2.13"  # from which on torch convolves DTensors as it convolves tensors


def check_shapes(
    name: str, axes: int, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool
) -> None:
    """Raise ValueError unless ``x``, the weight and the bias fit each other, as those of torch's convolutions do.

    NotImplementedError for DTensors where torch's own convolution of them is wrong.
    """
    if not _SPREADS and type(x).__name__ == "DTensor":
        raise NotImplementedError(
            f"{name}: x is a DTensor, of which torch {torch.__version__} computes wrong gradients in any convolution; "
            "use torch 2.13 or later, or give each rank's tensors"
        )
    check_weight(name, axes, weight.shape, transposed)
    if x.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)}; over {WORDS[axes]} of space give (batch, channels, *space) or one "
            "image (channels, *space)"
        )
    check_channels(name, axes, x.shape, weight.shape, None if bias is None else bias.shape, groups, transposed)
