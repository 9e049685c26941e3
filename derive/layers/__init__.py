"""The layers known by name, one family per file: forward maps only; everything else is derived and never stored."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from functools import partial

from derive import atlas
from derive.compose import ACTIVATIONS, compose, residual
from derive.forward_map import Layer, LayerError
from derive.layers import affine, attention, convolution, embedding, gated, low_rank, normalisers
from derive.sources import from_module, is_module

_RESIDUAL = re.compile(r"x\s*\+\s*\((.*)\)", re.DOTALL)
_LONGEST = 1000
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
    """Return the names of all layers, from simple to complex."""
    return tuple(_LAYERS)


def layer(name: str) -> Layer:
    """Return the layer of that name, or the composition ``first>second>...`` of layers, files and functions.

    ``x + (first>second)`` adds the input. Raises LayerError with the known names and the nearest one.
    """
    name = name.strip()
    if name in _LAYERS:
        return _LAYERS[name]()
    links = _links(name)
    if len(links) > 1:
        return compose([link if link in ACTIVATIONS else layer(link) for link in links])
    if inner := _RESIDUAL.fullmatch(name):
        return residual(layer(inner[1]))
    if name.startswith("(") and name.endswith(")"):
        return layer(name[1:-1])
    if name in ACTIVATIONS:
        return compose([name])
    if name.endswith(".toml"):
        from derive.spec import load_spec

        return load_spec(name)
    if is_module(name):
        return from_module(name)
    if name in atlas.names():
        return atlas.load(name)
    near = difflib.get_close_matches(name, (*_LAYERS, *atlas.names(), *ACTIVATIONS), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise LayerError(
        f"unknown layer {name!r}{hint} Known layers: {', '.join(_LAYERS)} (or a path ending in .toml, or "
        f"MODULE:FACTORY); functions as links: {', '.join(ACTIVATIONS)}; x + (layer) adds the input; layers of the "
        "literature: affdiv atlas"
    )


def _links(name: str) -> list[str]:
    """Return the parts between the ``>`` outside of brackets; raise LayerError for brackets that do not match."""
    links, depth = [""], 0
    for character in name:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == ">" and depth == 0:
            links.append("")
        else:
            links[-1] += character
    if depth != 0 or len(name) > _LONGEST:
        raise LayerError(f"the brackets of {name[:80]!r} do not match; write x + (affine>relu>affine)")
    return [link.strip() for link in links]
