"""The layers known by name: forward maps only, one family a file. What follows from them is derived, never stored."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from derive.forward_map import Layer, LayerError
from derive.layers import affine

_LAYERS: dict[str, Callable[[], Layer]] = {
    "linear": affine.linear,
    "affine": affine.affine,
}


def layer_names() -> tuple[str, ...]:
    """Return the names of all layers, in teaching order."""
    return tuple(_LAYERS)


def layer(name: str) -> Layer:
    """Return the layer of that name; raise LayerError with the known names and the nearest one."""
    if name in _LAYERS:
        return _LAYERS[name]()
    near = difflib.get_close_matches(name, _LAYERS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise LayerError(f"unknown layer {name!r}{hint} Known layers: {', '.join(_LAYERS)} (or a path ending in .toml)")
