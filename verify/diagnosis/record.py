"""The results of a diagnosis as plain data, and their JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from verify.diagnosis.findings.finding import NON_FINITE, Finding, plain
from verify.diagnosis.layers import Unjudged

SCHEMA = "affdiv.diagnosis/1"
_SORTED = 1 << 14  # most factors that are sorted for the median
SETTLED = ("it is computed inside the generated attention, where its output cannot be observed",)


@dataclass(frozen=True)
class Spread:
    """How the self factors of one layer are distributed over its samples at one step."""

    samples: int
    minimum: float
    median: float
    maximum: float

    @property
    def ratio(self) -> float:
        """Largest over smallest: 1 if every sample moves by the same factor; infinite if the smallest is 0."""
        if self.minimum == 0:
            return math.inf if self.maximum > 0 else 1.0
        return self.maximum / self.minimum

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name; an infinite ratio becomes None."""
        return {**asdict(self), "ratio": _finite(self.ratio)}


def _finite(value: float) -> float | None:
    """Return a number, or None if JSON cannot represent it."""
    return value if math.isfinite(value) else None


def spread(factors: Tensor) -> Spread:
    """Return the spread of self factors of any shape, at least one of them.

    The median is the lower one; of many factors, only an evenly spread subset is sorted, because sorting all would cost
    more than computing them.
    """
    flat = (factors if factors.is_contiguous() or factors.dim() < 2 else factors.mT).detach().reshape(-1)
    low, high = flat.aminmax()
    middle = flat[:: -(-flat.numel() // _SORTED)].median()
    return Spread(flat.numel(), float(low), float(middle), float(high))


@dataclass(frozen=True)
class Shares:
    """The contributions to one step's change of a layer's activation, as shares of the sum of squares, and its error.

    ``own`` comes from each sample's own gradient, ``cross`` from the layer's other samples, ``elsewhere`` from other
    uses of its parameters. ``error`` is the distance of the derived change from the change of a virtual step, relative
    to the latter; ``bound`` is its rounding bound.
    """

    own: float
    cross: float
    elsewhere: float
    error: float
    bound: float

    @property
    def exact(self) -> bool:
        """Whether the derived change equals the real one up to rounding."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Extremes:
    """Where a layer's largest self factors come from.

    Attributes:
        largest: index (sample, then position) and self factor of the largest ones.
        features: the features, or channels, with the largest shares of the squared length, and these shares.
        variation: standard deviation of the self factors over their mean.
        expected: the same for Gaussian inputs of as many independent entries; None if unknown.
    """

    largest: tuple[tuple[list[int], float], ...]
    features: tuple[tuple[int, float], ...]
    variation: float
    expected: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return {
            "largest": [{"index": index, "self_factor": plain(factor)} for index, factor in self.largest],
            "features": [{"feature": feature, "share": plain(share)} for feature, share in self.features],
            "variation": plain(self.variation),
            "expected_variation": plain(self.expected),
        }


@dataclass(frozen=True)
class Parts:
    """The contributions to a layer's change in the first real step, as shares of the squared change, which sum to 1.

    Attributes:
        own: from the layer's own parameters; ``upstream`` from its changed input; ``both`` the rest. None if the model
            could not be run again; all other numbers then describe the change by its own parameters.
        split: own as a sum of shares: self, cross, past (momentum, decay), elsewhere (other uses of the parameters);
            None if the optimiser's step is not linear in the gradient.
        cosine: mean over samples of the cosine of the change with minus the gradient.
        update_to_weight: norm of the step over that of the parameters.
        update_to_activation: norm of the change over that of the activation.
        gradient_norm: norm of the gradient of the layer's parameters.
        squared_change: the squared change of the chosen samples, the weight of the layer in totals.
    """

    own: float | None
    upstream: float | None
    both: float | None
    split: Mapping[str, float] | None
    cosine: float | None
    update_to_weight: float | None
    update_to_activation: float | None
    gradient_norm: float
    squared_change: float

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return {name: plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer, or projection of attention: self factors at each step, and the shares of the first step.

    ``missing`` says why there are no shares; ``advice`` is empty if there is nothing to correct.
    """

    name: str
    type: str
    sample: str
    calls: int
    law: str
    history: tuple[Spread, ...]
    shares: Shares | None
    missing: str = ""
    note: str = ""
    advice: str = ""
    parts: Parts | None = None
    extremes: Extremes | None = None

    @property
    def factors(self) -> Spread:
        """The self factors before any step."""
        return self.history[0]

    @property
    def drift(self) -> float | None:
        """The median self factor at the last step over that at the first; None without steps or if the latter is 0."""
        if len(self.history) < 2 or self.factors.median == 0:
            return None
        return self.history[-1].median / self.factors.median

    def to_json(self) -> dict[str, Any]:
        """Return the layer's numbers; missing ones are None."""
        shares = self.shares
        return {
            "name": self.name,
            "type": self.type,
            "sample": self.sample,
            "calls": self.calls,
            "law": self.law,
            "self_factor": self.factors.to_json(),
            "history": [s.to_json() for s in self.history],
            "drift": self.drift,
            "self_share": shares.own if shares else None,
            "cross_share": shares.cross if shares else None,
            "elsewhere_share": shares.elsewhere if shares else None,
            "step": {"error": plain(shares.error), "bound": shares.bound, "exact": shares.exact} if shares else None,
            "parts": self.parts.to_json() if self.parts else None,
            "extremes": self.extremes.to_json() if self.extremes else None,
            "missing": self.missing,
            "note": self.note,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Diagnosis:
    """Every layer of a model: the judged ones in the order of their calls, and the others with reasons.

    ``losses`` are those before each step and after the last; ``stopped`` says why fewer steps than requested were
    taken. ``findings`` are ordered by importance; ``judged`` is the share of trained parameters in the judged layers.
    """

    model: str
    layers: tuple[LayerDiagnosis, ...]
    unjudged: tuple[Unjudged, ...]
    losses: tuple[float, ...]
    rate: float
    training: bool
    stopped: str = ""
    findings: tuple[Finding, ...] = ()
    judged: float = 0.0
    optimizer: str = "SGD"

    @property
    def ok(self) -> bool:
        """Whether some step was checked, every checked step is the derived one, and all numbers are finite."""
        exact = [layer.shares.exact for layer in self.layers if layer.shares is not None]
        settled = any(not layer.shares and layer.missing in SETTLED for layer in self.layers)
        finite = not any(finding.kind in NON_FINITE for finding in self.findings)
        return finite and all(exact) and (bool(exact) or settled)

    @property
    def whole(self) -> dict[str, float] | None:
        """Own, upstream and both over all layers, as shares of the summed squared changes; None without a step."""
        parts = [m.parts for m in self.layers if m.parts is not None and m.parts.own is not None]
        total = sum(part.squared_change for part in parts)
        if total <= 0:
            return None
        words = ("own", "upstream", "both")
        return {word: sum(getattr(part, word) * part.squared_change for part in parts) / total for word in words}

    def layer(self, name: str) -> LayerDiagnosis:
        """Return the judged layer of that name; raise KeyError with the known names."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no judged layer {name!r}; judged are {', '.join(layer.name for layer in self.layers)}")

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis in the schema ``affdiv.diagnosis/1``."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "training": self.training,
            "rate": self.rate,
            "optimizer": self.optimizer,
            "losses": [plain(loss) for loss in self.losses],
            "stopped": self.stopped,
            "findings": [finding.to_json() for finding in self.findings],
            "judged_share": self.judged,
            "whole": self.whole,
            "layers": [layer.to_json() for layer in self.layers],
            "unjudged": [asdict(entry) for entry in self.unjudged],
            "ok": self.ok,
        }

    def __str__(self) -> str:
        """Return the table that the command prints."""
        from verify.diagnosis.show import table_text

        return table_text(self)
