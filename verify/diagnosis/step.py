"""One virtual step: what the derived kernel says that it does to a layer's activations, against what it does.

    rows chosen among all samples s, gradients g of the loss by the layer's output at every row s'
    own        K_ss g_s                             K_ss by ``affine_divergence.self_factor``
    derived    sum over s' of K_ss' g_s'            K_ss' by the derivation's cross term
    real       F(theta; x) - F(theta - G; x)        G the gradient of the whole model's loss, F run alone in float64
    elsewhere  the part of the real change that is made by other uses of the same parameters

The layer's input is held fixed. Layers that are judged are linear in their parameters, so the rate does not matter: the
step is taken as long as the parameters are, where rounding disturbs least.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from verify.diagnosis.capture import Call
from verify.diagnosis.kernel import kernel
from verify.diagnosis.layers import Site
from verify.diagnosis.record import Shares
from verify.diagnosis.samples import Shape, batched, blocks, evenly, flat, rows_of, units_of

_ENTRIES, _PLACES = {Shape.ROWS: 48, Shape.TOKENS: 48, Shape.BAGS: 48, Shape.PATCHES: 3}, 24


@dataclass(frozen=True)
class Probe:
    """The chosen rows of one call: the entries of its input that hold them, where they stand there, and g there."""

    call: Call
    x: Tensor
    rows: Tensor
    places: Tensor
    g: Tensor
    factors: Tensor


def shares(calls: Sequence[Call], values: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> Shares | str:
    """Return the shares of one site's step, or in words why there are none.

    Args:
        calls: every call of the site, each with the gradient of the loss with respect to its output.
        values: the parameters of the model by name.
        step: the gradient of the loss with respect to each parameter of the site.
    """
    site = calls[0].site
    gradients = [call.gradient for call in calls if call.gradient is not None]
    if not any(bool(g.any()) for g in gradients):
        return "the gradient of the loss by its output is zero"
    probes = [probe(call, g) for call, g in zip(calls, gradients, strict=True)]
    own = joined(p.factors.unsqueeze(-1) * p.g for p in probes)
    together = joined(derived(site, p, calls, gradients) for p in probes)
    real = _moved(site, probes, values, step)
    bound = _bound(calls, values)
    elsewhere = torch.zeros_like(real)
    if site.shared_with or _distance(together, real, own) > bound:
        rest = _rest(site, calls, gradients, values, step)
        elsewhere = _moved(site, probes, values, rest) if rest else elsewhere
    parts = [float(part.square().sum()) for part in (own, together - own, elsewhere)]
    total = sum(parts) or 1.0
    error = _distance(together + elsewhere, real, own)
    return Shares(parts[0] / total, parts[1] / total, parts[2] / total, error, bound)


def joined(parts: Iterable[Tensor]) -> Tensor:
    """Return all numbers of some tensors as one vector."""
    return torch.cat([part.reshape(-1) for part in parts])


def _distance(derived: Tensor, real: Tensor, own: Tensor) -> float:
    """Return the distance of two changes relative to the real one, or to its largest part where that cancels."""
    scale = max(float(real.norm()), float(own.norm()))
    return float((derived - real).norm()) / scale if scale > 0 else 0.0


def probe(call: Call, g: Tensor) -> Probe:
    """Choose rows of a call, evenly over its samples, and over the places of each image that is chosen."""
    site = call.site
    entries = flat(site.shape, site.view, call.x)
    wanted = _ENTRIES[Shape.ROWS if site.gain else site.shape]  # what a norm reads is laid out as images of one place
    chosen = evenly(len(entries), wanted, call.x.device)
    x = entries[chosen]
    x = x.double() if x.is_floating_point() else x
    laid = rows_of(site.shape, site.view, torch.zeros_like(x) if site.offsets_only else x)
    by_entry = _by_entry(units_of(site.shape, site.view, g.double()), len(entries))[:, chosen].flatten(1, 2)
    factors = _by_entry(call.factors.double().unsqueeze(-1), len(entries))[:, chosen].flatten(1)
    places = evenly(laid.shape[1], _PLACES * len(chosen), x.device) if site.shape is Shape.PATCHES else None
    places = torch.arange(laid.shape[1], device=x.device) if places is None else places
    return Probe(call, x, laid[:, places], places, by_entry[:, places], factors[:, places])


def _by_entry(rows: Tensor, entries: int) -> Tensor:
    """Return (groups, entries, rows of an entry, units) for (groups, rows, units)."""
    return rows.reshape(rows.shape[0], entries, -1, rows.shape[-1])


def derived(site: Site, probe: Probe, calls: Sequence[Call], gradients: Sequence[Tensor]) -> Tensor:
    """Return the sum over all rows of all calls of the kernel times the gradient there, (groups, chosen, units)."""
    total = torch.zeros_like(probe.g)
    for call, g in zip(calls, gradients, strict=True):
        units, start = units_of(site.shape, site.view, g), 0
        for part in blocks(site.shape, site.view, call.x):
            rows = torch.zeros_like(part) if site.offsets_only else part
            here = units[:, start : start + rows.shape[1]].double()
            start += rows.shape[1]
            total += _trained_rows(site, rows, kernel(site.law, probe.rows, rows, site.kappa)) @ here
    return total


def _trained_rows(site: Site, rows: Tensor, found: Tensor) -> Tensor:
    """Return the kernel without the token whose row is not trained."""
    padding = getattr(site.view, "padding_idx", None) if site.shape is Shape.TOKENS else None
    return found if padding is None else found * (rows != padding).unsqueeze(-2)


def _moved(site: Site, probes: Sequence[Probe], values: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> Tensor:
    """Return how far a step moves the activation at the chosen rows, the inputs held fixed; at a rate of 1."""
    before = {word: piece.of(values).detach().double() for word, piece in site.pieces.items()}
    gradient = {word: _gradient(site, word, values, step) for word in site.trained}
    length = sum(float(g.square().sum()) for g in gradient.values()) ** 0.5
    size = sum(float(p.square().sum()) for p in before.values()) ** 0.5
    rate = size / length if size > 0 and length > 0 else 1.0
    after = {word: p - rate * gradient[word] if word in gradient else p for word, p in before.items()}
    changes = []
    for probe in probes:
        moved = (run_alone(site, before, probe.x) - run_alone(site, after, probe.x)) / rate
        changes.append(units_of(site.shape, site.view, moved)[:, probe.places])
    return joined(changes)


def run_alone(site: Site, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return the layer's output alone, in float64; without a frozen bias, which moves nothing, if the view has none."""
    held = {word: p for word, p in parameters.items() if site.view._parameters.get(word) is not None}
    weight = held.get("weight")
    if weight is not None and site.transposed:
        held["weight"] = weight.T
    if site.gain:
        held = {word: p.reshape(-1, 1, 1) if word == "weight" else p.reshape(-1) for word, p in held.items()}
    z: Tensor = functional_call(site.view, held, (batched(site.shape, site.view, x),))
    return z


def _gradient(site: Site, word: str, values: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> Tensor:
    """Return the gradient of a piece in float64; the row of a token that is not trained is left as it is."""
    whole = step[site.pieces[word].parameter]
    whole = whole.to_dense() if whole.is_sparse else whole
    return site.pieces[word].of({site.pieces[word].parameter: whole}).double()


def _rest(
    site: Site,
    calls: Sequence[Call],
    gradients: Sequence[Tensor],
    values: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
) -> dict[str, Tensor] | None:
    """Return what is left of each parameter's gradient without these calls' part, by autograd alone."""
    own = {word: site.pieces[word].of(values).detach().double().requires_grad_() for word in site.trained}
    fixed = {word: p.of(values).detach().double() for word, p in site.pieces.items() if word not in own}
    total = {word: torch.zeros_like(p) for word, p in own.items()}
    for call, g in zip(calls, gradients, strict=True):
        x = call.x.double() if call.x.is_floating_point() else call.x
        with torch.enable_grad():
            z = run_alone(site, {**fixed, **own}, x)
        found = torch.autograd.grad(z, list(own.values()), g.reshape(z.shape).double())
        for word, part in zip(own, found, strict=True):
            total[word] += part.to_dense() if part.is_sparse else part
    rest = {}
    for word in site.trained:
        piece = site.pieces[word]
        whole = torch.zeros(values[piece.parameter].shape, dtype=torch.float64, device=total[word].device)
        piece.of({piece.parameter: whole}).copy_(_gradient(site, word, values, step) - total[word])
        rest[piece.parameter] = whole
    return rest


def _bound(calls: Sequence[Call], values: Mapping[str, Tensor]) -> float:
    """Return what rounding allows: the root of the coarsest unit of the types that the layer computes in."""
    site = calls[0].site
    types = {values[piece.parameter].dtype for piece in site.pieces.values()} | {call.dtype for call in calls}
    coarsest = max(torch.finfo(kind).eps for kind in types)
    if calls[0].x.is_cuda and torch.float32 in types:
        coarsest = max(coarsest, 2.0**-10)  # convolutions and products may be taken in TF32
    return float(coarsest**0.5)
