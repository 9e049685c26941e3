"""One virtual step: what the derived kernel says that it does to a layer's activations, against what it does.

    rows chosen among all samples s, gradients g of the loss with respect to the layer's output at every row s'
    own        K_ss g_s                             K_ss by ``affine_divergence.self_factor``
    derived    sum over s' of K_ss' g_s'            K_ss' by the derivation's cross term
    real       F(theta; x) - F(theta - G; x)        G the gradient of the whole model's loss, F run alone in float64
    elsewhere  the part of the real change that is made by other uses of the same parameters

The layer's input is held fixed. Layers that are judged are linear in their parameters, so the rate does not matter: the
step is taken as long as the parameters are, where rounding disturbs least.

Where a layer reads so many rows that the sum over all of them would cost more than the training step, the derived
kernel is held against automatic differentiation on a part of the rows, and the sum over all is the real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verify.diagnosis.capture import Call
from verify.diagnosis.kernel import kernel
from verify.diagnosis.layers import Site, gathered
from verify.diagnosis.probes import Parameters, Probe, parameters_of, probe, run_alone
from verify.diagnosis.record import Shares
from verify.diagnosis.samples import Shape, blocks, flat, units_of

MANY = 1 << 20  # entries of all rows, above which a part of the rows is checked
_PART = 256  # rows of such a part


@dataclass(frozen=True)
class Analysis:
    """The gradient's step of one site: its shares, and by chosen row what one sample and all samples do to it."""

    shares: Shares
    probes: Sequence[Probe]
    own: Tensor
    together: Tensor


def analyse(calls: Sequence[Call], values: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> Analysis | str:
    """Return what one site's gradient step is made of, or in words why that cannot be said.

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
    real, bound = _moved(site, probes, values, step), _bound(calls, values)
    elsewhere = torch.zeros_like(real)
    if _entries(calls) > MANY:
        error = _error_of_part(site, calls[0], gradients[0], values)
        together = real
        if rest := _rest_if_any(site, calls, gradients, values, step, bound):
            elsewhere = _moved(site, probes, values, rest)
            together = real - elsewhere
    else:
        together = joined(derived(site, p, calls, gradients) for p in probes)
        if site.shared_with or _distance(together, real, own) > bound:
            elsewhere = _moved(site, probes, values, _rest(site, calls, gradients, values, step))
        error = _distance(together + elsewhere, real, own)
    parts = [float(part.square().sum()) for part in (own, together - own, elsewhere)]
    total = sum(parts) or 1.0
    shares = Shares(parts[0] / total, parts[1] / total, parts[2] / total, error, bound)
    return Analysis(shares, probes, own, together)


def joined(parts: Iterable[Tensor]) -> Tensor:
    """Return all numbers of some tensors as one vector."""
    return torch.cat([part.reshape(-1) for part in parts])


def _distance(derived: Tensor, real: Tensor, own: Tensor) -> float:
    """Return the distance of two changes relative to the real one, or to its largest part where that cancels."""
    scale = max(float(real.norm()), float(own.norm()))
    return float((derived - real).norm()) / scale if scale > 0 else 0.0


def _entries(calls: Sequence[Call]) -> int:
    """Return how many numbers all rows of all calls hold."""
    site = calls[0].site
    weight = calls[0].site.view.weight
    assert isinstance(weight, Tensor)
    width = weight[0].numel() if site.shape is Shape.PATCHES else 1
    return sum(call.factors.numel() * width if site.shape is Shape.PATCHES else call.x.numel() for call in calls)


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


def _error_of_part(site: Site, call: Call, g: Tensor, values: Mapping[str, Tensor]) -> float:
    """Return how far the derived kernel is from automatic differentiation, both on a part of the rows alone."""
    part = probe(call, g, _PART, _PART)
    weights = _trained(site, values)
    with torch.enable_grad():
        z = part.run({**parameters_of(site, values), **weights})
    found = torch.autograd.grad(z, list(weights.values()), part.g)
    step = dict(zip(weights, found, strict=True))
    real = _difference(part, parameters_of(site, values), step).reshape(-1)
    found_kernel = _trained_rows(site, part.rows, kernel(site.law, part.rows, part.rows, site.kappa))
    told = (found_kernel @ part.g).reshape(-1)
    return _distance(told, real, (part.factors.unsqueeze(-1) * part.g).reshape(-1))


def _trained(site: Site, values: Mapping[str, Tensor]) -> Parameters:
    return {word: p.requires_grad_() for word, p in parameters_of(site, values).items() if word in site.trained}


def _difference(probe: Probe, before: Parameters, step: Parameters) -> Tensor:
    """Return how far a step moves the activation at the chosen rows, at a rate of 1."""
    length = sum(float(g.square().sum()) for g in step.values()) ** 0.5
    size = sum(float(p.square().sum()) for p in before.values()) ** 0.5
    rate = size / length if size > 0 and length > 0 else 1.0
    after = {word: p - rate * step[word] if word in step else p for word, p in before.items()}
    return (probe.run(before) - probe.run(after)) / rate


def _moved(site: Site, probes: Sequence[Probe], values: Mapping[str, Tensor], step: Mapping[str, Tensor]) -> Tensor:
    """Return how far a step moves the activation at the chosen rows, the inputs held fixed; at a rate of 1."""
    before = parameters_of(site, values)
    gradient = {word: _gradient(site, word, step) for word in site.trained}
    return joined(_difference(p, before, gradient) for p in probes)


def _gradient(site: Site, word: str, step: Mapping[str, Tensor]) -> Tensor:
    """Return the gradient of a piece in float64; the row of a token that is not trained is left as it is."""
    whole = step[site.pieces[word].parameter]
    whole = whole.to_dense() if whole.is_sparse else whole
    return site.pieces[word].of({site.pieces[word].parameter: whole}).double()


def _own_gradient(
    site: Site, calls: Sequence[Call], gradients: Sequence[Tensor], values: Mapping[str, Tensor], kind: torch.dtype
) -> Parameters:
    """Return the part of each parameter's gradient that these calls make, by autograd alone."""
    own = {word: p.detach().to(kind).requires_grad_() for word, p in _trained(site, values).items()}
    fixed = {word: p.to(kind) for word, p in parameters_of(site, values).items() if word not in own}
    total = {word: torch.zeros_like(p) for word, p in own.items()}
    for call, g in zip(calls, gradients, strict=True):
        x = call.x.to(kind) if call.x.is_floating_point() else call.x
        with torch.enable_grad():
            z = run_alone(site, {**fixed, **own}, flat(site.shape, site.view, x))
        found = torch.autograd.grad(z, list(own.values()), g.reshape(z.shape).to(kind))
        for word, part in zip(own, found, strict=True):
            total[word] += part.to_dense() if part.is_sparse else part
    return {word: part.double() for word, part in total.items()}


def _rest(
    site: Site,
    calls: Sequence[Call],
    gradients: Sequence[Tensor],
    values: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
    kind: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Return what is left of each parameter's gradient without these calls' part."""
    total, rest = _own_gradient(site, calls, gradients, values, kind), {}
    for word in site.trained:
        piece = site.pieces[word]
        whole = torch.zeros(values[piece.parameter].shape, dtype=torch.float64, device=total[word].device)
        piece.of({piece.parameter: whole}).copy_(_gradient(site, word, step) - total[word])
        rest[piece.parameter] = whole
    return rest


def _rest_if_any(
    site: Site,
    calls: Sequence[Call],
    gradients: Sequence[Tensor],
    values: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
    bound: float,
) -> dict[str, Tensor] | None:
    """Return that rest, computed in the layer's own type, where it is more than rounding; None where it is not."""
    kind = next(iter(values[piece.parameter] for piece in site.pieces.values())).dtype
    rest = _rest(site, calls, gradients, values, step, kind)
    left = sum(float(part.square().sum()) for part in rest.values()) ** 0.5
    whole = sum(float(gathered(step[name]).double().square().sum()) for name in rest) ** 0.5
    return rest if left > bound * whole else None


def _bound(calls: Sequence[Call], values: Mapping[str, Tensor]) -> float:
    """Return what rounding allows: the root of the coarsest unit of the types that the layer computes in."""
    site = calls[0].site
    types = {values[piece.parameter].dtype for piece in site.pieces.values()} | {call.dtype for call in calls}
    coarsest = max(torch.finfo(kind).eps for kind in types)
    if calls[0].x.is_cuda and torch.float32 in types:
        coarsest = max(coarsest, 2.0**-10)  # convolutions and products may be taken in TF32
    return float(coarsest**0.5)
