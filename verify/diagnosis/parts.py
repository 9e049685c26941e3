"""What one real step does to a layer's activation, in a network in which every layer steps at once.

    own        F(theta'; x)  - F(theta; x)      the layer's own parameters moved
    upstream   F(theta ; x') - F(theta; x)      the layers in front moved its input
    both       the rest, of second order in the rate
    share of a part = <part, Delta z> / ||Delta z||^2; they sum to 1

Where the optimiser's step is linear in the gradient, own is once more a sum: self, what a sample's own gradient does,
cross, what other samples do, past, what the optimiser remembers (momentum, decay), and the rest by other uses of the
same parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verify.diagnosis.capture import Call
from verify.diagnosis.layers import Site, gathered
from verify.diagnosis.optimizer import Linear
from verify.diagnosis.record import Parts
from verify.diagnosis.samples import evenly, flat, units_of
from verify.diagnosis.step import Probe, derived, joined, probe, run_alone

CHANGED = "its calls were others after the step, so that samples cannot be compared"


@dataclass(frozen=True)
class Moved:
    """One step of the whole network: parameters before and after by name, and how the step depends on the gradient."""

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    linear: Linear | None


def parts(calls: Sequence[Call], later: Sequence[Call], step: Moved, gradient_norm: float) -> Parts | str:
    """Return the parts of one layer's change, or in words why there are none.

    Args:
        calls: the layer's calls before the step, with gradients.
        later: those after it, of the same batch with the same random numbers.
        step: what became of the parameters.
        gradient_norm: norm of the gradient of the layer's parameters.
    """
    site = calls[0].site
    if len(later) != len(calls) or any(a.x.shape != b.x.shape for a, b in zip(calls, later, strict=True)):
        return CHANGED
    gradients = [torch.zeros_like(c.factors) if c.gradient is None else c.gradient for c in calls]
    if any(c.gradient is None for c in calls):
        return CHANGED
    probes = [probe(call, g) for call, g in zip(calls, gradients, strict=True)]
    before, after = _parameters(site, step.before), _parameters(site, step.after)
    z = _outputs(site, before, probes, [p.x for p in probes])
    moved_inputs = [_rows(site, call.x, p) for call, p in zip(later, probes, strict=True)]
    own = _outputs(site, after, probes, [p.x for p in probes]) - z
    upstream = _outputs(site, before, probes, moved_inputs) - z
    change = _outputs(site, after, probes, moved_inputs) - z
    total = float(change.square().sum())
    if total == 0:
        return "the step does not change its activation"

    def _share(part: Tensor) -> float:
        return float((part * change).sum()) / total

    split = _split(site, probes, calls, gradients, step, z, own)
    weight = sum(float(p.square().sum()) for p in before.values()) ** 0.5
    update = sum(float((after[w] - p).square().sum()) for w, p in before.items()) ** 0.5
    return Parts(
        own=_share(own),
        upstream=_share(upstream),
        both=_share(change - own - upstream),
        split=None if split is None else {name: _share(part) for name, part in split.items()},
        cosine=_cosine(change, joined(p.g for p in probes), probes[0].g.shape[-1]),
        update_to_weight=update / weight if weight > 0 else None,
        update_to_activation=(total / float(z.square().sum())) ** 0.5 if bool(z.any()) else None,
        gradient_norm=gradient_norm,
        squared_change=total,
    )


def _parameters(site: Site, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {word: piece.of(values).detach().double() for word, piece in site.pieces.items()}


def _rows(site: Site, x: Tensor, chosen: Probe) -> Tensor:
    """Return the entries of a later input that stand where those of a probe stood."""
    entries = flat(site.shape, site.view, x)
    kept = entries[evenly(len(entries), len(chosen.x), x.device)]
    return kept.double() if kept.is_floating_point() else kept


def _outputs(site: Site, parameters: dict[str, Tensor], probes: Sequence[Probe], inputs: Sequence[Tensor]) -> Tensor:
    results = (units_of(site.shape, site.view, run_alone(site, parameters, x)) for x in inputs)
    return joined(z[:, p.places] for z, p in zip(results, probes, strict=True))


def _split(
    site: Site,
    probes: Sequence[Probe],
    calls: Sequence[Call],
    gradients: Sequence[Tensor],
    step: Moved,
    z: Tensor,
    own: Tensor,
) -> dict[str, Tensor] | None:
    """Return own as a sum, None where the step is not linear in the gradient or takes weight and bias apart."""
    names = [piece.parameter for piece in site.trained_pieces]
    if step.linear is None or not all(name in step.linear.rate for name in names):
        return None
    rates = [step.linear.rate[name] for name in names]
    if max(rates) - min(rates) > 1e-3 * max(map(abs, rates)):
        return None
    alone = -rates[0] * joined(p.factors.unsqueeze(-1) * p.g for p in probes)
    together = -rates[0] * joined(derived(site, p, calls, gradients) for p in probes)
    remembered = {name: gathered(step.before[name]).double() + step.linear.past[name] for name in names}
    before = {**_parameters(site, step.before), **_parameters_of(site, remembered)}
    past = _outputs(site, before, probes, [p.x for p in probes]) - z
    return {"self": alone, "cross": together - alone, "past": past, "elsewhere": own - together - past}


def _parameters_of(site: Site, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {w: p.of(values).detach().double() for w, p in site.pieces.items() if p.parameter in values}


def _cosine(change: Tensor, gradient: Tensor, units: int) -> float | None:
    """Return the mean over samples of the cosine of the change with minus the gradient there."""
    moved, wanted = change.reshape(-1, units), -gradient.reshape(-1, units)
    lengths = moved.norm(dim=1) * wanted.norm(dim=1)
    used = lengths > 0
    return float(((moved * wanted).sum(1)[used] / lengths[used]).mean()) if bool(used.any()) else None
