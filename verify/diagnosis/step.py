"""Compare the change of a layer's activations in one virtual step with the change that the derived kernel predicts.

    rows chosen among all samples s, gradients g of the loss with respect to the layer's output at every row s'
    own        K_ss g_s                             K_ss by ``affine_divergence.self_factor``
    derived    sum over s' of K_ss' g_s'            K_ss' by the derivation's cross term
    real       F(G; x)                              G the gradient of the whole model's loss, F the layer run alone,
                                                    linear in its parameters
    elsewhere  the part of the real change that comes from other uses of the same parameters

The layer's input is held fixed, and the rate does not matter. The derived change is compared with the real one at all
chosen rows, or at a few of them if the layer has many rows. If they differ, the kernel alone is compared with automatic
differentiation on the chosen rows; the part that it explains is the layer's own, and the rest is ``elsewhere``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verify.diagnosis.capture import Call
from verify.diagnosis.kernel import Law, kernel
from verify.diagnosis.layers import Piece, Site
from verify.diagnosis.probes import Probe, is_product, laid, parameters_of, probes_of
from verify.diagnosis.record import Shares
from verify.diagnosis.samples import Shape, batched, blocks, evenly, padded, units_of
from verify.diagnosis.sums import squared

MANY = 1 << 22  # products above which only a few of the chosen rows are compared
_FEW = 2
_PART = 1 << 20  # entries of the kernel in memory at once
_NOTHING = 1e-30  # smaller squared changes may have lost digits in float32


@dataclass(frozen=True)
class Analysis:
    """The gradient step of one site: its shares, and for each chosen row the effects of its own and of all samples.

    ``real`` is the layer's output there with the gradient as parameters: the effect of all uses of the parameters.
    """

    shares: Shares
    probes: Sequence[Probe]
    own: Tensor
    together: Tensor
    real: Tensor


def analyse(
    calls: Sequence[Call],
    values: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
    exactly: torch.dtype | None = None,
) -> Analysis | str:
    """Return the analysis of one site's gradient step, or the reason why there is none.

    Args:
        calls: every call of the site, each with the gradient of the loss with respect to its output.
        values: the parameters of the model by name.
        step: the gradient of the loss with respect to each parameter of the site.
        exactly: the dtype to compute in; by default the layer's own, or float64 if that would under- or overflow.
    """
    site, probes = calls[0].site, probes_of(calls, exactly=exactly)
    if not any(bool(p.g.any()) for p in probes) and not any(bool(g.any()) for _, g in _met(calls)):
        return "the gradient of the loss with respect to its output is zero"
    gradient = {word: gradient_of(site.pieces[word], step) for word in site.trained}
    rows, g = joined(p.rows for p in probes), joined(p.g for p in probes)
    own = joined(p.factors for p in probes).unsqueeze(-1) * g
    real, bound = joined(p.run(gradient) for p in probes), _bound(calls, values)
    count = rows.shape[1]
    checked = evenly(count, _FEW if _many(calls, rows) else count, rows.device)
    told = derived(site, rows[:, checked], calls, g.dtype)
    together, elsewhere = told if len(checked) == count else real, torch.zeros_like(real)
    error = _distance(told, real[:, checked], own[:, checked])
    if not error <= bound:
        together = derived(site, rows, calls, g.dtype)
        elsewhere, error = real - together, _error_alone(probes[0], values)
    parts = [squared(part) for part in (own, together - own, elsewhere)]
    total = sum(parts)
    if g.dtype != torch.float64 and not (total > _NOTHING and error < torch.inf):
        return analyse(calls, values, step, torch.float64)
    own_share, cross, rest = (part / (total or 1.0) for part in parts)
    return Analysis(Shares(own_share, cross, rest, error, bound), probes, own, together, real)


def joined(parts: Iterable[Tensor]) -> Tensor:
    """Return the chosen rows of several calls as one tensor."""
    found = list(parts)
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def _met(calls: Sequence[Call]) -> list[tuple[Call, Tensor]]:
    return [(call, call.gradient) for call in calls if call.gradient is not None]


def _distance(derived: Tensor, real: Tensor, own: Tensor) -> float:
    """Return the distance of two changes relative to the real one, or to its largest part if the parts cancel."""
    scale = max(squared(real), squared(own)) ** 0.5
    return squared(derived - real) ** 0.5 / scale if scale > 0 else 0.0


def _many(calls: Sequence[Call], chosen: Tensor) -> bool:
    """Whether the derived change at all chosen rows needs many products or kernel entries."""
    site, entries = calls[0].site, sum(call.x.numel() + g.numel() for call, g in _met(calls))
    if site.shape is Shape.PATCHES and not site.gain:
        kernel_size: Any = site.view.kernel_size
        entries *= math.prod(kernel_size)
    kernel_entries = chosen.shape[0] * sum(call.factors.shape[-1] for call in calls)
    return not site.shared_with and chosen.shape[1] * max(entries, 16 * kernel_entries) > MANY


def derived(site: Site, chosen: Tensor, calls: Sequence[Call], kind: torch.dtype) -> Tensor:
    """Return the sum over all rows of all calls of the kernel times the gradient there, (groups, chosen, units)."""
    total: Tensor | float = 0.0
    for call, g in _met(calls):
        if site.shape is Shape.PATCHES and is_product(site):
            found = (_by_entries if site.gain else _by_convolution)(site, chosen, call.x.to(kind), g.to(kind))
            total = total + found
            continue
        for rows, units in _all_rows(site, call, g, chosen):
            given = torch.zeros_like(rows) if site.offsets_only else rows
            given = given.to(chosen.dtype) if given.is_floating_point() else given
            found = kernel(site.law, chosen, given, site.kappa).to(kind)
            total = total + _trained_rows(site, rows, found) @ units.to(kind)
    assert isinstance(total, Tensor)
    return total


def _all_rows(site: Site, call: Call, g: Tensor, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of a call and their units in blocks."""
    if site.shape is Shape.TOKENS or is_product(site):
        tokens = site.shape is Shape.TOKENS
        rows = call.x.reshape(1, -1) if tokens else laid(site, call.x, slice(None))
        units = g.reshape(1, -1, g.shape[-1]) if tokens else laid(site, g, slice(None))
        each = max(1, _PART // (chosen.shape[0] * chosen.shape[1]))
        yield from zip(rows.split(each, 1), units.split(each, 1), strict=True)
        return
    units, start = units_of(site.shape, site.view, g), 0
    for part in blocks(site.shape, site.view, call.x):
        yield part, units[:, start : start + part.shape[1]]
        start += part.shape[1]


def _by_entries(site: Site, chosen: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """Return that sum for the gain of a norm, whose rows are single entries, in the norm's own layout.

    The kernel is affine in the product of two entries, so its values at the products 0 and 1 determine it.
    """
    rest, whole = _at_products(site.law, site.kappa)
    met, alone = ((x * g).sum((0, 2)), g.sum((0, 2)))
    return (whole - rest) * chosen * met.reshape(-1, 1, 1) + rest * alone.reshape(-1, 1, 1)


@cache
def _at_products(law: Law, kappa: float) -> tuple[float, float]:
    """Return the kernel of a layer of single entries for entry products 0 and 1."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    rest, whole = (float(kernel(law, one, one, kappa, one * product)) for product in (0.0, 1.0))
    return rest, whole


def _by_convolution(site: Site, chosen: Tensor, x: Tensor, g: Tensor) -> Tensor:
    """Return that sum for a convolution; its row products are a convolution with the chosen rows as filters."""
    view: Any = site.view
    x, g = batched(site.shape, view, x), batched(site.shape, view, g)
    groups, count = chosen.shape[:2]
    filters = chosen.reshape(groups * count, -1, *view.kernel_size)
    large = x.numel() > _PART and x.shape[1] >= math.prod(view.kernel_size)
    if large and count <= _FEW and groups == math.prod(view.stride) == 1:
        products = by_taps(view, filters, x)
    else:
        image, padding = (x, view.padding) if view.padding_mode == "zeros" else (padded(view, x), 0)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(view.kernel_size) - 1]
        products = convolve(image, filters, None, view.stride, padding, view.dilation, groups)
    met = kernel(site.law, chosen, chosen, site.kappa, products.reshape(len(x), groups, count, -1))
    return (met @ g.reshape(len(x), groups, g.shape[1] // groups, -1).mT).sum(0)


def by_taps(view: Any, filters: Tensor, x: Tensor) -> Tensor:
    """Return that convolution, of stride 1, as one matrix product, which is faster for few filters.

    Convolution routines are tuned for many filters, and take as long for two as for eight.
    """
    count, channels, *kernel = filters.shape
    zeros = view.padding_mode == "zeros"
    image = x if zeros else padded(view, x)
    before = view._reversed_padding_repeated_twice[-2::-2] if zeros else [0] * len(kernel)
    after = view._reversed_padding_repeated_twice[::-2] if zeros else before
    flat = filters.flatten(2).permute(2, 0, 1).reshape(-1, channels)
    by_tap = (flat @ image.flatten(2)).unflatten(1, (-1, count)).unflatten(3, image.shape[2:])
    lengths = [
        length + sum(ends) - gap * (size - 1)
        for length, gap, size, *ends in zip(image.shape[2:], view.dilation, kernel, before, after, strict=True)
    ]
    total = image.new_zeros(len(x), count, *lengths)
    for number, place in enumerate(itertools.product(*map(range, kernel))):
        offsets = [gap * k - start for k, gap, start in zip(place, view.dilation, before, strict=True)]
        whole = zip(offsets, lengths, image.shape[2:], strict=True)
        spans = [(max(0, -offset), max(0, -offset, min(n, there - offset))) for offset, n, there in whole]
        into = [slice(*span) for span in spans]
        read = [slice(start + o, stop + o) for (start, stop), o in zip(spans, offsets, strict=True)]
        total[(slice(None), slice(None), *into)] += by_tap[(slice(None), number, slice(None), *read)]
    return total


def _trained_rows(site: Site, rows: Tensor, found: Tensor) -> Tensor:
    """Return the kernel with zeros for the token whose row is not trained (padding)."""
    padding = getattr(site.view, "padding_idx", None) if site.shape is Shape.TOKENS else None
    return found if padding is None else found * (rows != padding).unsqueeze(-2)


def _error_alone(probe: Probe, values: Mapping[str, Tensor]) -> float:
    """Return the error of the derived kernel against automatic differentiation, on the chosen rows of one call."""
    site, held = probe.site, parameters_of(probe.site, values)
    trained = {word: held[word].requires_grad_() for word in site.trained}
    with torch.enable_grad():
        z = probe.run({**held, **trained})
    found = torch.autograd.grad(z, list(trained.values()), probe.g)
    real = probe.run(dict(zip(trained, found, strict=True)))
    met = kernel(site.law, probe.rows, probe.rows, site.kappa).to(probe.g.dtype)
    return _distance(_trained_rows(site, probe.rows, met) @ probe.g, real, probe.factors.unsqueeze(-1) * probe.g)


def gradient_of(piece: Piece, step: Mapping[str, Tensor]) -> Tensor:
    """Return the gradient of a piece of a parameter; the row of an untrained token is zero."""
    whole = step[piece.parameter]
    return piece.of({piece.parameter: whole.to_dense() if whole.is_sparse else whole})


def _bound(calls: Sequence[Call], values: Mapping[str, Tensor]) -> float:
    """Return the rounding bound: the square root of the largest epsilon of the dtypes that the layer computes in."""
    site = calls[0].site
    types = {values[piece.parameter].dtype for piece in site.pieces.values()} | {call.dtype for call in calls}
    coarsest = max(torch.finfo(kind).eps for kind in types)
    if calls[0].x.is_cuda and torch.float32 in types:
        coarsest = max(coarsest, 2.0**-10)  # convolutions and products may use TF32
    return float(coarsest**0.5)
