"""Chosen rows of one call of a layer, and the layer run alone on what they read, in float64.

A position of a convolution reads a small window of its image, so windows are cut out and the layer runs on these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from verify.diagnosis.capture import Call
from verify.diagnosis.layers import Site
from verify.diagnosis.samples import Shape, batched, evenly, flat, padded, rows_of, units_of

_ROWS, _IMAGES, _PLACES = 48, 3, 24  # chosen of each call: rows, or images and places in all of them together
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Probe:
    """The chosen rows of one call.

    Attributes:
        site: the layer as it runs on the chosen entries alone.
        x: these entries of the input, in float64.
        rows: the chosen rows (groups, chosen, entries).
        places: where they stand among the rows of ``x``.
        g: the gradient at the chosen rows (groups, chosen, units).
        factors: their self factors (groups, chosen).
        take: the same entries of another input of the same shape.
        windows: whether ``x`` holds what single positions of a convolution read.
    """

    site: Site
    x: Tensor
    rows: Tensor
    places: Tensor
    g: Tensor
    factors: Tensor
    take: Callable[[Tensor], Tensor]
    windows: bool = False

    def run(self, parameters: Parameters, x: Tensor | None = None) -> Tensor:
        """Return the layer's output at the chosen rows, (groups, chosen, units)."""
        if self.windows:
            return _on_windows(self.site, parameters, self.x if x is None else x)
        z = run_alone(self.site, parameters, self.x if x is None else x)
        return units_of(self.site.shape, self.site.view, z)[:, self.places]


def probe(call: Call, g: Tensor, rows: int = _ROWS, places: int = _PLACES) -> Probe:
    """Choose rows of a call, evenly over its samples, and over the places of each image that is chosen."""
    site = call.site
    if type(site.view) in (nn.Conv1d, nn.Conv2d, nn.Conv3d) and not site.gain:
        return _windows(call, g, places)
    entries = flat(site.shape, site.view, call.x)
    images = site.shape is Shape.PATCHES and not site.gain
    chosen = evenly(len(entries), _IMAGES if images else rows, call.x.device)

    def _take(x: Tensor) -> Tensor:
        kept = flat(site.shape, site.view, x)[chosen]
        return kept.double() if kept.is_floating_point() else kept

    x = _take(call.x)
    laid = rows_of(site.shape, site.view, torch.zeros_like(x) if site.offsets_only else x)
    by_entry = _by_entry(units_of(site.shape, site.view, g), len(entries))[:, chosen].flatten(1, 2)
    factors = _by_entry(call.factors.unsqueeze(-1), len(entries))[:, chosen].flatten(1)
    every = torch.arange(laid.shape[1], device=x.device)
    kept = evenly(laid.shape[1], places * len(chosen), x.device) if images else every
    return Probe(site, x, laid[:, kept], kept, by_entry[:, kept].double(), factors[:, kept].double(), _take)


def _by_entry(rows: Tensor, entries: int) -> Tensor:
    """Return (groups, entries, rows of an entry, units) for (groups, rows, units)."""
    return rows.reshape(rows.shape[0], entries, -1, rows.shape[-1])


def _windows(call: Call, g: Tensor, places: int) -> Probe:
    """Choose positions of a convolution, and cut out of its input what each of them reads."""
    site, view = call.site, _without_padding(call.site.view)
    x = batched(site.shape, site.view, call.x)
    out = batched(site.shape, site.view, g).shape[2:]
    each = out.numel()
    images = evenly(len(x), _IMAGES, x.device)
    flat_places = evenly(len(images) * each, places * len(images), x.device)
    which, there = flat_places // each, flat_places % each
    corners = torch.stack(torch.unravel_index(there, out), 1) * torch.tensor(view.stride, device=x.device)
    sizes = [d * (k - 1) + 1 for d, k in zip(view.dilation, view.kernel_size, strict=True)]

    def _take(x: Tensor) -> Tensor:
        whole = padded(site.view, batched(site.shape, site.view, x)[images])
        parts = []
        for image, corner in zip(which.tolist(), corners.tolist(), strict=True):
            window = tuple(slice(c, c + n) for c, n in zip(corner, sizes, strict=True))
            parts.append(whole[(image, slice(None), *window)])
        return torch.stack(parts).double()

    cut, alone = _take(call.x), replace(site, view=view)
    laid = rows_of(site.shape, view, torch.zeros_like(cut) if site.offsets_only else cut)
    rows = images[which] * each + there
    kept = units_of(site.shape, site.view, g)[:, rows].double()
    return Probe(alone, cut, laid, torch.arange(len(rows)), kept, call.factors[:, rows].double(), _take, True)


def _on_windows(site: Site, parameters: Parameters, x: Tensor) -> Tensor:
    """Return a convolution at one position of each window: the products of what it reads, much faster in float64."""
    rows = rows_of(site.shape, site.view, x)
    weight = parameters["weight"].reshape(rows.shape[0], -1, rows.shape[2])
    z = rows @ weight.mT
    bias = parameters.get("bias")
    return z if bias is None else z + bias.reshape(rows.shape[0], 1, -1)


def _without_padding(view: Any) -> Any:
    twin = copy.copy(view)
    twin.padding, twin.padding_mode = (0,) * len(view.kernel_size), "zeros"
    twin._reversed_padding_repeated_twice = [0] * (2 * len(view.kernel_size))
    return twin


def parameters_of(site: Site, values: Mapping[str, Tensor]) -> Parameters:
    """Return weight and bias of a site in float64 from the model's parameters by name."""
    return {word: piece.of(values).detach().double() for word, piece in site.pieces.items()}


def run_alone(site: Site, parameters: Parameters, x: Tensor) -> Tensor:
    """Return the layer's output alone; without a frozen bias, which moves nothing, if the view has none."""
    held = {word: p for word, p in parameters.items() if site.view._parameters.get(word) is not None}
    weight = held.get("weight")
    if weight is not None and site.transposed:
        held["weight"] = weight.T
    if site.gain:
        made = x if weight is None else x * weight.reshape(-1, 1)
        return made + held["bias"].reshape(-1, 1) if "bias" in held else made
    z: Tensor = functional_call(site.view, held, (batched(site.shape, site.view, x),))
    return z
