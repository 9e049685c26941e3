"""Layers whose maps are computed by code that was derived from a more general layer.

A convolution without groups is a grouped one with one group, over any number of axes; a projection of tokens is an
affine map of every token. Code is derived and written once, for the general layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from derive.layers import layer_names

_CONVOLUTIONS = {
    f"{word}convolution{axes}": f"grouped-{word}convolution"
    for word in ("", "transposed-")
    for axes in ("", "-1d", "-3d")
}
_PROJECTIONS = {f"attention-{word}": "" for word in ("projection", "output")}
_GENERAL = _CONVOLUTIONS | _PROJECTIONS


def covered(derivations: Iterable[str]) -> dict[str, str]:
    """Return the maps of special layers that code computes, each with the map that the code was derived from.

    Args:
        derivations: the ids of what code was derived from, such as the map ``grouped-convolution/affine-like``.
    """
    known = set(derivations) - set(layer_names())  # a layer of its own is no map of a general one
    forms = {name.rpartition("/")[2] for name in known}
    pairs = {
        f"{layer}/{form}": f"{general}/{form}".lstrip("/") for layer, general in _GENERAL.items() for form in forms
    }
    return {special: general for special, general in sorted(pairs.items()) if general in known}
