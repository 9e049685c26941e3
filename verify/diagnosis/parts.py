"""Split the change of a layer's activation in one real step, in which every layer of the network moves at once.

    own        F(theta'; x)  - F(theta; x)      from the layer's own parameters
    upstream   F(theta ; x') - F(theta; x)      from its input, which the previous layers changed
    both       the rest, of second order in the rate
    share of a part = <part, Delta z> / ||Delta z||^2; they sum to 1

If the optimiser's step is linear in the gradient, own is itself a sum: self (the sample's own gradient), cross (other
samples' gradients), past (the optimiser's momentum and decay), and elsewhere (other uses of the same parameters).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from verify.diagnosis.capture import Call
from verify.diagnosis.layers import Piece, Site
from verify.diagnosis.optimizer import Linear
from verify.diagnosis.probes import Along, Parameters, Probe, parameters_of
from verify.diagnosis.record import Parts
from verify.diagnosis.step import Analysis, gradient_of, joined
from verify.diagnosis.sums import inner, parts_of, squared, squares_of, wide

_ROUNDED = 1e-6  # relative to the parameter: in a longer step, rounding is at most a few per cent of an entry
UNMOVED = "the step does not change its activation"
CHANGED = "its calls after the step differ from those before, so samples cannot be compared"


@dataclass(frozen=True)
class Sizes:
    """Sizes of some parameters: squared norms of values, step and gradient, and -<gradient, step>.

    ``rate`` is set if the step is minus the gradient times this rate, and far above rounding.
    """

    weight: float
    update: float
    gradient: float
    fall: float
    rate: float | None = None


@dataclass(frozen=True)
class Moved:
    """One step of the whole network: parameters before and after by name, gradients, and the step's linear form.

    ``linear`` is None if the step is not linear in the gradient or this was not tested; ``lengths`` holds the known
    squared norms of gradients.
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    linear: Linear | None
    lengths: Mapping[str, float] = field(default_factory=dict)
    _sizes: dict[Piece, Sizes] = field(default_factory=dict)

    def sizes(self, pieces: Iterable[Piece]) -> Sizes:
        """Return the joint sizes of some parameters; if ``after`` is missing, the step is minus the gradient."""
        found = [self._of(piece) for piece in pieces]
        words = ("weight", "update", "gradient", "fall")
        return Sizes(*(sum(getattr(part, word) for part in found) for word in words))

    def _of(self, piece: Piece) -> Sizes:
        if piece not in self._sizes:
            self._sizes[piece] = self._measured(piece)
        return self._sizes[piece]

    @cached_property
    def _weights(self) -> dict[str, float]:
        """The squared norm of each trained parameter that is a plain tensor."""
        return squares_of({name: self.before[name] for name in self.gradients})

    def _measured(self, piece: Piece) -> Sizes:
        before, gradient = piece.of(self.before), self.gradients.get(piece.parameter)
        if gradient is not None:
            gradient = gradient_of(piece, self.gradients)
        known = piece.parameter if piece.stop is None else ""
        length = 0.0 if gradient is None else self.lengths[known] if known in self.lengths else squared(gradient)
        weight = self._weights[known] if known in self._weights else squared(before)
        if not self.after:
            return Sizes(weight, length, length, length)
        rate = self._rate(piece.parameter) if before.dtype in (torch.float32, torch.float64) else None
        if rate is not None and rate**2 * length > _ROUNDED**2 * weight:
            return Sizes(weight, rate**2 * length, length, rate * length, rate)
        after, update, fall = piece.of(self.after), 0.0, 0.0
        met = parts_of(after if gradient is None else gradient)
        buffer: Tensor | None = None  # reused for all parts, which have equal sizes except the last
        for old, new, g in zip(parts_of(before), parts_of(after), met, strict=True):
            buffer = (
                wide(new) - wide(old) if buffer is None else torch.sub(wide(new), wide(old), out=buffer[: len(new)])
            )
            update += squared(buffer)
            fall -= 0.0 if gradient is None else inner(g, buffer)
        return Sizes(weight, update, length, fall)

    def along_gradient(self, probes: Sequence[Probe], analysis: Analysis | None) -> list[Along] | None:
        """Return for each call the layer's step along its gradients at one rate; None if it is not such a step.

        ``analysis`` of the same rows holds the layer's output with the gradients as parameters.
        """
        site = probes[0].site
        pieces = site.pieces.values()
        if set(site.pieces) != set(site.trained) or any(piece.parameter not in self.gradients for piece in pieces):
            return None
        rates = {self._of(piece).rate for piece in pieces}
        rate = rates.pop() if len(rates) == 1 else None
        if rate is None:
            return None
        gradients = {word: gradient_of(piece, self.gradients) for word, piece in site.pieces.items()}
        if analysis is None:
            return [Along(rate, gradients, p.run(gradients)) for p in probes]
        made = analysis.real.split([p.g.shape[1] for p in probes], 1)
        return [Along(rate, gradients, part) for part in made]

    def _rate(self, parameter: str) -> float | None:
        """Return the rate if the step is exactly minus rate times the gradient, else None."""
        return None if self.linear is None or self.linear.past else self.linear.rate.get(parameter)


def parts(probes: Sequence[Probe], later: Sequence[Call], step: Moved, analysis: Analysis | None = None) -> Parts | str:
    """Return the contributions to one layer's change, or the reason why there are none.

    Args:
        probes: chosen rows of each of the layer's calls before the step.
        later: the calls after it, on the same batch with the same random numbers, with the same entries kept.
        step: the step of the parameters.
        analysis: the analysis of the gradient's step at the same rows, if made; it is used to split own.
    """
    site = probes[0].site
    if len(later) != len(probes) or any(p.shape != call.shape for p, call in zip(probes, later, strict=True)):
        return CHANGED
    before, after = (parameters_of(site, values) for values in (step.before, step.after))
    along: Sequence[Along | None] = step.along_gradient(probes, analysis) or [None] * len(probes)
    found = [p.moved(before, after, c.x, down) for c, p, down in zip(later, probes, along, strict=True)]
    z, *moved = (joined(part) for part in zip(*found, strict=True))
    addends = _addends(site, probes, step, analysis)
    held = torch.stack([part.double() for part in (*moved, *addends)])
    change = held[:3].sum(0)
    total = squared(change)
    if total == 0:
        return UNMOVED
    own, upstream, both, *rest = ((held.flatten(1) @ change.flatten()) / total).tolist()
    told = _record(site, probes, step, z, change)
    return replace(told, own=own, upstream=upstream, both=both, split=_split(own, *rest) if rest else None)


def own_parts(probes: Sequence[Probe], step: Moved) -> Parts | str:
    """Return the effect of a layer's own step, for a model that cannot be run again to see its inputs change."""
    site = probes[0].site
    before, after = (parameters_of(site, values) for values in (step.before, step.after))
    z, own = (joined(part) for part in zip(*((p.run(before), p.step(before, after)) for p in probes), strict=True))
    return _record(site, probes, step, z, own.double()) if bool(own.any()) else UNMOVED


def _record(site: Site, probes: Sequence[Probe], step: Moved, z: Tensor, change: Tensor) -> Parts:
    """Return the record of a change, in float64, without its contributions."""
    sizes, total, size = step.sizes(site.pieces.values()), squared(change), squared(z)
    return Parts(
        own=None,
        upstream=None,
        both=None,
        split=None,
        cosine=cosine(change, joined(p.g for p in probes).double()),
        update_to_weight=(sizes.update / sizes.weight) ** 0.5 if sizes.weight > 0 else None,
        update_to_activation=(total / size) ** 0.5 if size > 0 else None,
        gradient_norm=sizes.gradient**0.5,
        squared_change=total,
    )


def _addends(site: Site, probes: Sequence[Probe], step: Moved, analysis: Analysis | None) -> list[Tensor]:
    """Return the effects on own of the sample alone, of all samples, and of the past; empty if they do not add up.

    They do not if the step is not linear in the gradient or has different rates for weight and bias. An empty past is
    left out.
    """
    names = {word: site.pieces[word].parameter for word in site.trained}
    if step.linear is None or analysis is None or not all(name in step.linear.rate for name in names.values()):
        return []
    linear, rates = step.linear, [step.linear.rate[name] for name in names.values()]
    if max(rates) - min(rates) > 1e-3 * max(map(abs, rates)):
        return []
    found = [-rates[0] * analysis.own, -rates[0] * analysis.together]
    if linear.past:
        remembered: Parameters = {word: site.pieces[word].of(linear.past) for word in names}
        found.append(joined(p.run(remembered) for p in probes))
    return found


def _split(own: float, alone: float, together: float, past: float = 0.0) -> dict[str, float]:
    """Return the shares of self, cross, past and elsewhere, which sum to own."""
    return {"self": alone, "cross": together - alone, "past": past, "elsewhere": own - together - past}


def cosine(change: Tensor, gradient: Tensor) -> float | None:
    """Return the mean over samples of the cosine of the change with minus the gradient there."""
    lengths = torch.linalg.vector_norm(change, dim=-1) * torch.linalg.vector_norm(gradient, dim=-1)
    count = int(lengths.count_nonzero())
    products = (change * gradient).sum(-1) / lengths.where(lengths > 0, 1.0)  # zero vectors contribute 0
    return -float(products.sum()) / count if count else None
