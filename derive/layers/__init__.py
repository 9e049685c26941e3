"""The layers known by name: forward maps only, one family a file. What follows from them is derived, never stored."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from derive.compose import compose
from derive.forward_map import Layer, LayerError
from derive.layers import affine, attention, convolution, embedding, gated, low_rank, normalisers

_LAYERS: dict[str, Callable[[], Layer]] = {
    "linear": affine.linear,
    "affine": affine.affine,
    "convolution": partial(convolution.convolution, 2, name="convolution"),
    "convolution-1d": partial(convolution.convolution, 1),
    "convolution-3d": partial(convolution.convolution, 3),
    "grouped-convolution": partial(convolution.convolution, 2, grouped=True, name="grouped-convolution"),
    "transposed-convolution": partial(convolution.transposed_convolution, 2, name="transposed-convolution"),
    "transposed-convolution-1d": partial(convolution.transposed_convolution, 1),
    "transposed-convolution-3d": partial(convolution.transposed_convolution, 3),
    "embedding": embedding.embedding,
    "embedding-bag": embedding.embedding_bag,
    "attention": attention.attention,
    "attention-projection": attention.projection,
    "attention-value": attention.value_path,
    "attention-output": attention.output_projection,
    "qk-norm>attention": attention.qk_norm_scores,
    "low-rank": low_rank.low_rank,
    "gated": gated.gated,
    "l2-norm": normalisers.l2_norm,
    "rms-norm": normalisers.rms_norm,
    "layer-norm": normalisers.layer_norm,
    "batch-norm": normalisers.batch_norm,
    "gain": normalisers.gain,
}


def layer_names() -> tuple[str, ...]:
    """Return the names of all layers, in teaching order."""
    return tuple(_LAYERS)


def layer(name: str) -> Layer:
    """Return the layer of that name, or the composition ``first>second>...`` of named layers.

    Raises LayerError with the known names and the nearest one.
    """
    if name in _LAYERS:
        return _LAYERS[name]()
    if ">" in name:
        return compose([layer(part.strip()) for part in name.split(">")])
    near = difflib.get_close_matches(name, _LAYERS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise LayerError(f"unknown layer {name!r}{hint} Known layers: {', '.join(_LAYERS)} (or a path ending in .toml)")
