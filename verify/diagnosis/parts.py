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

from torch import Tensor

from verify.diagnosis.capture import Call
from verify.diagnosis.layers import Site, gathered
from verify.diagnosis.optimizer import Linear
from verify.diagnosis.probes import Parameters, parameters_of, probe
from verify.diagnosis.record import Parts
from verify.diagnosis.step import Analysis, joined

UNMOVED = "the step does not change its activation"
CHANGED = "its calls were others after the step, so that samples cannot be compared"


@dataclass(frozen=True)
class Moved:
    """One step of the whole network: parameters before and after by name, and how the step depends on the gradient."""

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    linear: Linear | None


def parts(
    calls: Sequence[Call], later: Sequence[Call], step: Moved, gradient_norm: float, analysis: Analysis | None = None
) -> Parts | str:
    """Return the parts of one layer's change, or in words why there are none.

    Args:
        calls: the layer's calls before the step, with gradients.
        later: those after it, of the same batch with the same random numbers.
        step: what became of the parameters.
        gradient_norm: norm of the gradient of the layer's parameters.
        analysis: of the gradient's step, where it was made: own is then split.
    """
    site = calls[0].site
    if (
        any(call.gradient is None for call in calls)
        or len(later) != len(calls)
        or any(a.x.shape != b.x.shape for a, b in zip(calls, later, strict=True))
    ):
        return CHANGED
    measured = _Measured(site, calls, step, analysis)
    moved_inputs = [p.take(call.x) for call, p in zip(later, measured.probes, strict=True)]
    own = measured.change(step.after)
    upstream = measured.change(step.before, moved_inputs)
    change = measured.change(step.after, moved_inputs)
    total = float(change.square().sum())
    if total == 0:
        return UNMOVED

    def _share(part: Tensor) -> float:
        return float((part * change).sum()) / total

    split = _split(measured, own)
    return measured.record(
        change, gradient_norm, _share(own), _share(upstream), _share(change - own - upstream),
        None if split is None else {name: _share(part) for name, part in split.items()},
    )  # fmt: skip


def own_parts(calls: Sequence[Call], step: Moved, gradient_norm: float) -> Parts | str:
    """Return what a layer's own step did, where the model cannot be run once more to see its input move."""
    measured = _Measured(calls[0].site, calls, step, None)
    own = measured.change(step.after)
    return measured.record(own, gradient_norm, None, None, None, None) if bool(own.any()) else UNMOVED


class _Measured:
    """A layer run alone in float64, at chosen samples, with the parameters before the step as reference."""

    def __init__(self, site: Site, calls: Sequence[Call], step: Moved, analysis: Analysis | None) -> None:
        self.site, self.step, self.analysis = site, step, analysis
        met = [(call, call.gradient) for call in calls if call.gradient is not None]
        self.probes = analysis.probes if analysis is not None else [probe(call, g) for call, g in met]
        self._held: dict[int, Parameters] = {}
        self.z = self._outputs(step.before, None)

    def change(self, values: Mapping[str, Tensor], inputs: Sequence[Tensor] | None = None) -> Tensor:
        """Return the change of the activation with these parameters, and other inputs of the chosen samples."""
        return self._outputs(values, inputs) - self.z

    def _outputs(self, values: Mapping[str, Tensor], inputs: Sequence[Tensor] | None) -> Tensor:
        parameters = self._parameters(values)
        given = [p.x for p in self.probes] if inputs is None else inputs
        return joined(p.run(parameters, x) for p, x in zip(self.probes, given, strict=True))

    def _parameters(self, values: Mapping[str, Tensor]) -> Parameters:
        """Return the site's parameters in float64; those before and after the step are asked for several times."""
        if values is not self.step.before and values is not self.step.after:
            return parameters_of(self.site, values)
        if id(values) not in self._held:
            self._held[id(values)] = parameters_of(self.site, values)
        return self._held[id(values)]

    def record(
        self,
        change: Tensor,
        gradient_norm: float,
        own: float | None,
        upstream: float | None,
        both: float | None,
        split: Mapping[str, float] | None,
    ) -> Parts:
        """Return the record of a change."""
        before, after = (self._parameters(values) for values in (self.step.before, self.step.after))
        weight = sum(float(p.square().sum()) for p in before.values()) ** 0.5
        update = sum(float((after[w] - p).square().sum()) for w, p in before.items()) ** 0.5
        total, size = float(change.square().sum()), float(self.z.square().sum())
        return Parts(
            own=own,
            upstream=upstream,
            both=both,
            split=split,
            cosine=_cosine(change, joined(p.g for p in self.probes), self.probes[0].g.shape[-1]),
            update_to_weight=update / weight if weight > 0 else None,
            update_to_activation=(total / size) ** 0.5 if size > 0 else None,
            gradient_norm=gradient_norm,
            squared_change=total,
        )


def _split(measured: _Measured, own: Tensor) -> dict[str, Tensor] | None:
    """Return own as a sum, None where the step is not linear in the gradient or takes weight and bias apart."""
    linear, analysis = measured.step.linear, measured.analysis
    names = [piece.parameter for piece in measured.site.trained_pieces]
    if linear is None or analysis is None or not all(name in linear.rate for name in names):
        return None
    rates = [linear.rate[name] for name in names]
    if max(rates) - min(rates) > 1e-3 * max(map(abs, rates)):
        return None
    alone, together = -rates[0] * analysis.own, -rates[0] * analysis.together
    before, past = measured.step.before, own.new_zeros(own.shape)
    if linear.past:
        remembered = {name: gathered(before[name]).double() + linear.past[name] for name in names}
        past = measured.change({**before, **remembered})
    return {"self": alone, "cross": together - alone, "past": past, "elsewhere": own - together - past}


def _cosine(change: Tensor, gradient: Tensor, units: int) -> float | None:
    """Return the mean over samples of the cosine of the change with minus the gradient there."""
    moved, wanted = change.reshape(-1, units), -gradient.reshape(-1, units)
    lengths = moved.norm(dim=1) * wanted.norm(dim=1)
    used = lengths > 0
    return float(((moved * wanted).sum(1)[used] / lengths[used]).mean()) if bool(used.any()) else None
