"""Checks of a convolution's tensors, and whether to keep its output; messages name the value, the cause and the fix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .patch_settings import WORDS, check_channels, check_weight

_SPREADS = torch.__version__ >= "2.13"  # torch convolves DTensors correctly since this version
_SMALL = 8  # an output is small if the weight has this many times its entries


def check_shapes(
    name: str, axes: int, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool
) -> None:
    """Raise ValueError unless ``x``, the weight and the bias fit each other, as in torch's convolutions.

    Raises NotImplementedError for DTensors if this version of torch convolves them wrongly.
    """
    if not _SPREADS and type(x).__name__ == "DTensor":
        raise NotImplementedError(
            f"{name}: x is a DTensor, for which torch {torch.__version__} computes wrong gradients in any convolution; "
            "use torch 2.13 or later, or give each rank's tensors"
        )
    check_weight(name, axes, weight.shape, transposed)
    if x.dim() not in (axes + 1, axes + 2):
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)}; over {WORDS[axes]} of space give (batch, channels, *space) or one "
            "image (channels, *space)"
        )
    check_channels(name, axes, x.shape, weight.shape, None if bias is None else bias.shape, groups, transposed)


def is_small(x: Tensor, weight: Tensor, channels: int, positions: Sequence[int]) -> bool:
    """Return whether an output with these channels and positions has at most an eighth of the weight's entries.

    ``x`` is (batch, channels, *space) or one image, as in torch's convolutions. False in a compiled graph: the compiler
    decides what to keep, and reading lengths would add a guard to the graph.
    """
    if is_compiling():
        return False
    images = x.shape[0] if x.dim() == weight.dim() else 1
    return _SMALL * images * channels * math.prod(positions) <= weight.numel()
