"""Checks of the arguments of attention; every message names the value, the cause and the fix."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_features


def check_settings(name: str, embed_dim: int, num_heads: int, dropout: float, kdim: int, vdim: int) -> None:
    """Raise TypeError or ValueError for sizes that are not positive integers or do not fit, or dropout out of range."""
    check_features(name, embed_dim=embed_dim, num_heads=num_heads, kdim=kdim, vdim=vdim)
    if embed_dim % num_heads:
        raise ValueError(
            f"{name}: embed_dim is {embed_dim} and num_heads {num_heads}; every head gets the same number of "
            "features, so choose heads that divide embed_dim"
        )
    if isinstance(dropout, bool) or not isinstance(dropout, int | float):
        raise TypeError(f"{name}: dropout is a {type(dropout).__name__}; give a number from 0 to 1")
    if not 0 <= dropout <= 1:
        raise ValueError(f"{name}: dropout is {dropout}; give a probability from 0 to 1")


def check_tokens(
    name: str, query: Tensor, key: Tensor, value: Tensor, widths: tuple[int, int, int], batch_first: bool
) -> None:
    """Raise TypeError or ValueError unless query, key and value are tokens of the given widths that fit each other.

    Shapes: (L, E) and (S, ..), or batched (L, N, E) and (S, N, ..), the batch first if ``batch_first``.
    """
    named = {"query": query, "key": key, "value": value}
    for (word, tensor), width in zip(named.items(), widths, strict=True):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {word} is a {type(tensor).__name__}; give a tensor")
        if tensor.is_nested:
            raise TypeError(f"{name}: {word} is a nested tensor; pad it, and mask the padding by key_padding_mask")
        if tensor.dim() not in (2, 3):
            raise ValueError(f"{name}: {word} has shape {_shape(tensor)}; give 2 axes, or 3 with a batch")
        if tensor.dim() != query.dim():
            raise ValueError(f"{name}: {word} has {tensor.dim()} axes, query {query.dim()}; batch all three or none")
        if tensor.shape[-1] != width:
            raise ValueError(f"{name}: {word} has shape {_shape(tensor)}; its last axis must have the length {width}")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"{name}: key has shape {_shape(key)} but value {_shape(value)}; each key needs one value, so all axes but "
            "the last must agree"
        )
    batch = 0 if batch_first else 1
    if query.dim() == 3 and query.shape[batch] != key.shape[batch]:
        raise ValueError(
            f"{name}: query has shape {_shape(query)} but key {_shape(key)}; with batch_first={batch_first} "
            f"axis {batch} is the batch, and must have one length"
        )


def check_masks(
    name: str,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    is_causal: bool,
    scores: tuple[int | None, int, int, int],
) -> None:
    """Raise TypeError or ValueError unless the masks fit scores of the shape (N, H, L, S); N is None without a batch.

    Shapes: attn_mask (L, S) or (N * H, L, S), without a batch (H, L, S); key_padding_mask (N, S), without a batch (S).
    """
    batch, heads, asking, answering = scores
    if is_causal and attn_mask is None:
        raise ValueError(
            f"{name}: is_causal=True only declares that attn_mask is causal, and there is none; give the mask "
            "too, for example torch.nn.Transformer.generate_square_subsequent_mask(L)"
        )
    for word, mask in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
        if mask is None:
            continue
        if not isinstance(mask, Tensor):
            raise TypeError(f"{name}: {word} is a {type(mask).__name__}; give a tensor")
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise TypeError(f"{name}: {word} has type {mask.dtype}; give booleans, or numbers to add to the scores")
    stacked = (heads if batch is None else batch * heads, asking, answering)
    if attn_mask is not None and not (_fits(attn_mask, (asking, answering)) or _fits(attn_mask, stacked)):
        raise ValueError(
            f"{name}: attn_mask has shape {_shape(attn_mask)}; give {(asking, answering)} for all heads, or {stacked}"
        )
    padding = (answering,) if batch is None else (batch, answering)
    if key_padding_mask is not None and not _fits(key_padding_mask, padding):
        raise ValueError(f"{name}: key_padding_mask has shape {_shape(key_padding_mask)}; give {padding}")


def _fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tensor.dim() == len(shape) and all(a == b for a, b in zip(tensor.shape, shape, strict=True))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
