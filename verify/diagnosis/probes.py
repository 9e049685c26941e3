"""Select rows of a layer's calls, and run the layer alone on them.

    rows x weight     linear layers, gains of norms, and convolutions (windows of the image are cut out as rows):
                      products in the layer's own dtype, at least float32
    a row of a table  embeddings: look-ups
    anything else     the layer's own function, in float64

All of them are linear in the parameters, so the effect of a step is the layer's output with the step as parameters:
small steps lose no digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from verify.diagnosis.capture import Call, Keep
from verify.diagnosis.layers import Site
from verify.diagnosis.samples import Shape, batched, by_axis, evenly, flat, padded, rows_of, units_of

ROWS = 48  # rows chosen among all calls of a layer
_FEWEST, _SHARE = 8, 32  # for expensive rows: at least this many, and one in so many
_LITTLE = 1 << 22  # a number of products that is cheap
_IMAGES = 3  # images of one convolution call in which positions are chosen
_PART = 1 << 18  # entries of a weight difference that are held at once
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Along:
    """A step of a layer's parameters along their gradients at one rate, whose effect needs no difference of weights.

    ``at_gradient`` is the layer's output at the chosen rows of one call, with the gradients as parameters.
    """

    rate: float
    gradients: Parameters
    at_gradient: Tensor


@dataclass(frozen=True)
class Probe:
    """The chosen rows of one call.

    Attributes:
        site: the layer.
        shape: the shape of the whole input.
        x: the chosen entries of the input; for products, the rows themselves.
        rows: the chosen rows (groups, chosen, entries), for tokens (1, chosen); zeros if only the bias is trained.
        places: their positions among the rows of ``x``, if the layer's own function runs.
        g: the gradient at the chosen rows (groups, chosen, units).
        factors: their self factors (groups, chosen).
        take: a function that returns the same entries of another input of the same shape.
    """

    site: Site
    shape: torch.Size
    x: Tensor
    rows: Tensor
    places: Tensor | None
    g: Tensor
    factors: Tensor
    take: Callable[[Tensor], Tensor]

    def run(self, parameters: Parameters, x: Tensor | None = None) -> Tensor:
        """Return the layer's output at the chosen rows, (groups, chosen, units); missing parameters count as zero."""
        x = self.x if x is None else x
        if self.site.shape is Shape.TOKENS:
            padding: Any = self.site.view.padding_idx
            return F.embedding(x, parameters["weight"], padding).to(self.g.dtype).unsqueeze(0)
        if self.places is None:
            return _products(x, parameters, None, self.site)
        held = {word: p for word, p in self.site.view._parameters.items() if p is not None}
        exact = {word: parameters.get(word, torch.zeros_like(p)).double() for word, p in held.items()}
        return units_of(self.site.shape, self.site.view, run_alone(self.site, exact, x))[:, self.places]

    def step(self, before: Parameters, after: Parameters, x: Tensor | None = None) -> Tensor:
        """Return the change of the output by a step of the parameters, with the input held."""
        x = self.x if x is None else x
        if self.site.shape is Shape.TOKENS:
            return self.run(after, x) - self.run(before, x)
        if self.places is None:
            return _products(x, after, before, self.site)
        return self.run({word: p.double() - before[word].double() for word, p in after.items()}, x)

    def moved(
        self, before: Parameters, after: Parameters, x: Tensor, along: Along | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the output, and its changes by the parameters alone, by the input alone, and by both together.

        Args:
            before: parameters before the step.
            after: those after it.
            x: the same entries of the input after the step.
            along: the step along the gradients, if all parameters step at one rate.
        """
        if torch.equal(x, self.x):
            own = self.step(before, after) if along is None else -along.rate * along.at_gradient
            return self.run(before), own, torch.zeros_like(own), torch.zeros_like(own)
        if self.places is not None or self.site.shape is Shape.TOKENS:
            z, own = self.run(before), self.step(before, after)
            return z, own, self.run(before, x) - z, self.step(before, after, x) - own
        count, further = self.x.shape[1], x - self.x
        rows = torch.cat([self.x, further], 1)
        z = _products(rows, before, None, self.site, count)
        if along is None:
            step = _products(rows, after, before, self.site, count)
            return z[:, :count], step[:, :count], z[:, count:], step[:, count:]
        both = _products(further, along.gradients, None, self.site, 0)
        return z[:, :count], -along.rate * along.at_gradient, z[:, count:], -along.rate * both


def _products(
    rows: Tensor, parameters: Parameters, less: Parameters | None, site: Site, biased: int | None = None
) -> Tensor:
    """Return rows times the weight, plus the bias for the first ``biased`` ones; with ``less``, of the difference.

    The difference is taken for a few units at a time, so that no copy of a large weight is needed.
    """
    groups, count, entries = rows.shape
    weight = _laid(site, "weight", (parameters, less), (groups, -1, entries))
    bias = _laid(site, "bias", (parameters, less), (groups, -1, 1))
    units = (weight or bias)[0].shape[1]
    z = rows.new_zeros(groups, count, units) if less is not None or not weight else _applied(rows, weight)
    if weight and less is not None:
        each = max(1, _PART // (groups * entries))
        for start in range(0, units, each):
            z[..., start : start + each] = _applied(rows, [w[:, start : start + each] for w in weight])
    if bias:
        z[:, :biased] += _difference(bias, rows.dtype).mT
    return z


def _laid(site: Site, word: str, held: Sequence[Parameters | None], shape: tuple[int, int, int]) -> list[Tensor]:
    """Return a parameter as (groups, units, entries), and the one to subtract from it; empty if it is missing."""
    found = [parameters[word] for parameters in held if parameters is not None and word in parameters]
    return [(p.T if word == "weight" and site.transposed else p).reshape(shape) for p in found]


def _applied(rows: Tensor, weight: Sequence[Tensor]) -> Tensor:
    """Return the products of rows with a weight or a difference of weights; rows of one entry need no sum."""
    part = _difference(weight, rows.dtype).mT
    return rows * part if rows.shape[-1] == 1 else rows @ part


def _difference(pair: Sequence[Tensor], kind: torch.dtype) -> Tensor:
    return pair[0].to(kind) if len(pair) == 1 else pair[0].to(kind) - pair[1].to(kind)


def is_product(site: Site) -> bool:
    """Whether a layer's output is the product of rows and weight."""
    plain = type(site.view) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return not site.law.map and (site.shape is Shape.ROWS or (site.shape is Shape.PATCHES and plain))


def probes_of(calls: Sequence[Call], most: int = ROWS, exactly: torch.dtype | None = None) -> list[Probe]:
    """Choose rows evenly among the calls of a layer that received a gradient.

    If rows are expensive, so few are chosen that they cost little compared with the layer's own products.

    Args:
        calls: all calls of one layer.
        most: the largest number of rows to choose.
        exactly: the dtype to compute in; by default that of input and weight, at least float32.
    """
    met = [(call, call.gradient) for call in calls if call.gradient is not None]
    weight: Any = calls[0].site.view.weight
    cost = weight.shape[-1] if calls[0].site.shape is Shape.TOKENS else weight.numel()
    if most * cost > _LITTLE:
        every = sum(call.factors.shape[-1] for call in calls)
        most = min(most, max(_FEWEST, every // _SHARE))
    each = -(-most // max(1, len(met)))
    return [_probe(call, g, each, exactly) for call, g in met]


def entries_of(probes: Mapping[str, Sequence[Probe]]) -> Keep:
    """Return a hook that keeps the chosen entries of each layer's inputs, and nothing if the shape differs."""

    def _entries(name: str, number: int, x: Tensor) -> Tensor:
        of_layer = probes.get(name, ())
        known = number < len(of_layer) and of_layer[number].shape == x.shape
        return of_layer[number].take(x) if known else x.new_empty(0)

    return _entries


def _probe(call: Call, g: Tensor, count: int, exactly: torch.dtype | None) -> Probe:
    site = call.site
    kind = exactly or torch.promote_types(
        torch.promote_types(g.dtype, torch.float32), call.x.dtype if call.x.is_floating_point() else torch.float32
    )
    if site.shape is Shape.TOKENS:
        return _tokens(call, g, count, kind)
    if not is_product(site):
        return _alone(call, g, count)
    if site.gain or site.shape is Shape.ROWS:
        return _rows(call, g, count, kind)
    return _windows(call, g, count, kind)


def _tokens(call: Call, g: Tensor, count: int, kind: torch.dtype) -> Probe:
    chosen = evenly(call.x.numel(), count, call.x.device)

    def _take(x: Tensor) -> Tensor:
        return x.reshape(-1)[chosen]

    x, units = _take(call.x), g.reshape(-1, g.shape[-1])[chosen].unsqueeze(0)
    return Probe(
        call.site, call.shape, x, x.unsqueeze(0), None, units.to(kind), call.factors[:, chosen].to(kind), _take
    )


def _rows(call: Call, g: Tensor, count: int, kind: torch.dtype) -> Probe:
    """Choose rows of a linear layer, or entries of a norm, whose groups are its units."""
    site = call.site
    chosen = evenly(call.factors.shape[-1], count, call.x.device)

    def _take(x: Tensor) -> Tensor:
        return laid(site, x, chosen).to(kind)

    x = _take(call.x)
    rows = torch.zeros_like(x) if site.offsets_only else x
    return Probe(
        site, call.shape, x, rows, None, laid(site, g, chosen).to(kind), call.factors[:, chosen].to(kind), _take
    )


def laid(site: Site, tensor: Tensor, chosen: Tensor | slice) -> Tensor:
    """Return chosen rows, or their units, of a linear layer or a norm, (groups, chosen, entries)."""
    if not site.gain:
        return tensor.reshape(-1, tensor.shape[-1])[chosen].unsqueeze(0)
    if isinstance(chosen, slice):
        return tensor.transpose(0, 1).flatten(1)[:, chosen].unsqueeze(-1)
    return tensor[chosen // tensor.shape[2], :, chosen % tensor.shape[2]].T.unsqueeze(-1)


def _windows(call: Call, g: Tensor, count: int, kind: torch.dtype) -> Probe:
    """Choose positions of a convolution, and cut out their windows of the input."""
    site, groups = call.site, int(call.site.view.groups)  # type: ignore[arg-type]
    view: Any = site.view
    x, gradient = batched(site.shape, view, call.x), batched(site.shape, view, g)
    out, zeros = gradient.shape[2:], view.padding_mode == "zeros"
    window = _Window(
        view.kernel_size,
        view.stride,
        view.dilation,
        tuple(view._reversed_padding_repeated_twice[-2::-2]) if zeros else (0,) * len(out),
    )
    image = x if zeros else padded(view, x)
    which, there, read, inside = _reading(window, len(x), tuple(image.shape[2:]), tuple(out), count, x.device)

    def _take(x: Tensor) -> Tensor:
        image = batched(site.shape, view, x)
        image = (image if zeros else padded(view, image)).flatten(2)
        cut = image[which.unsqueeze(1), :, read]
        cut = cut if inside is None else cut.where(inside, 0.0)
        return cut.mT.reshape(len(which), groups, -1).transpose(0, 1).to(kind)

    units = gradient.reshape(len(x), groups, -1, out.numel())[which, :, :, there].transpose(0, 1)
    cut = _take(call.x)
    given = torch.zeros_like(cut) if site.offsets_only else cut
    rows = call.factors[:, which * out.numel() + there]
    return Probe(site, call.shape, cut, given, None, units.to(kind), rows.to(kind), _take)


@dataclass(frozen=True)
class _Window:
    """The window of a convolution by axis: number of entries, spacing, and padding before the image."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]


@lru_cache(maxsize=256)
def _reading(
    window: _Window, images: int, space: tuple[int, ...], out: tuple[int, ...], count: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Choose positions in some images, and return for each its image, its index, and the entries of its window.

    Returns:
        Image (chosen), index among the positions (chosen), entries of the window (chosen, entries), and a mask of the
            entries inside the image (chosen, entries, 1), None if all are. Cached: do not modify.
    """
    each, some = math.prod(out), evenly(images, min(_IMAGES, count), device)
    places = evenly(len(some) * each, count, device)
    which, there = some[places // each], places % each
    read = torch.zeros(len(which), 1, dtype=torch.long, device=device)
    inside = torch.ones_like(read, dtype=torch.bool)
    for axis, corner in enumerate(by_axis(there, out)):
        reach = torch.arange(window.size[axis], device=device) * window.dilation[axis]
        place = (corner * window.stride[axis] - window.before[axis]).unsqueeze(1) + reach
        here = (place >= 0) & (place < space[axis])
        place = place.clamp(0, space[axis] - 1)
        read = (read.unsqueeze(2) * space[axis] + place.unsqueeze(1)).flatten(1)
        inside = (inside.unsqueeze(2) & here.unsqueeze(1)).flatten(1)
    return which, there, read, None if bool(inside.all()) else inside.unsqueeze(2)


def _alone(call: Call, g: Tensor, count: int) -> Probe:
    """Choose entries for a layer that runs by its own function; for images, positions shared by all of them."""
    site = call.site
    entries = flat(site.shape, site.view, call.x)
    images = site.shape is Shape.PATCHES
    chosen = evenly(len(entries), _IMAGES if images else count, call.x.device)

    def _take(x: Tensor) -> Tensor:
        kept = flat(site.shape, site.view, x)[chosen]
        return kept.double() if kept.is_floating_point() else kept

    x = _take(call.x)
    every = rows_of(site.shape, site.view, torch.zeros_like(x) if site.offsets_only else x)
    kept = evenly(every.shape[1], count if images else every.shape[1], x.device)
    by_entry = _by_entry(units_of(site.shape, site.view, g), len(entries))[:, chosen].flatten(1, 2)
    factors = _by_entry(call.factors.unsqueeze(-1), len(entries))[:, chosen].flatten(1)
    return Probe(
        site, call.shape, x, every[:, kept], kept, by_entry[:, kept].double(), factors[:, kept].double(), _take
    )


def _by_entry(rows: Tensor, entries: int) -> Tensor:
    """Return (groups, entries, rows of an entry, units) for (groups, rows, units)."""
    return rows.reshape(rows.shape[0], entries, -1, rows.shape[-1])


def parameters_of(site: Site, values: Mapping[str, Tensor]) -> Parameters:
    """Return weight and bias of a site from the model's parameters by name."""
    return {word: piece.of(values).detach() for word, piece in site.pieces.items()}


def run_alone(site: Site, parameters: Parameters, x: Tensor) -> Tensor:
    """Return the output of the layer's stand-in with these parameters."""
    z: Tensor = functional_call(site.view, parameters, (batched(site.shape, site.view, x),))
    return z
