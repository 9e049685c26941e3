"""What a diagnosis found: plain data, and its JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from verify.diagnosis.layers import Unjudged

SCHEMA = "affdiv.diagnosis/1"


@dataclass(frozen=True)
class Spread:
    """How the self factors of one layer are distributed over its samples at one step."""

    samples: int
    minimum: float
    median: float
    maximum: float

    @property
    def ratio(self) -> float:
        """Largest over smallest: 1 where every sample is moved by the same factor; infinite above a factor of 0."""
        if self.minimum == 0:
            return math.inf if self.maximum > 0 else 1.0
        return self.maximum / self.minimum

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name; a ratio that is infinite is None."""
        return {**asdict(self), "ratio": _finite(self.ratio)}


def _finite(value: float) -> float | None:
    """Return a number, None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def spread(factors: Tensor) -> Spread:
    """Return the spread of self factors of any shape, at least one of them; the median is the lower one."""
    flat = factors.detach().reshape(-1)
    low, high = flat.aminmax()
    return Spread(flat.numel(), float(low), float(flat.median()), float(high))


@dataclass(frozen=True)
class Shares:
    """What one step's change of a layer's activation is made of, as shares of the summed squares, and how exact it is.

    ``own`` is what each sample's own gradient does, ``cross`` what the layer's other samples do, ``elsewhere`` what
    other uses of its parameters do. ``error`` is the distance of the derived change from the change of a virtual step,
    relative to the latter, and ``bound`` what rounding allows.
    """

    own: float
    cross: float
    elsewhere: float
    error: float
    bound: float

    @property
    def exact(self) -> bool:
        """Whether the derived change is the real one, up to rounding."""
        return self.error <= self.bound


@dataclass(frozen=True)
class LayerDiagnosis:
    """One layer, or projection of attention: self factors at each step, and the shares of the first step.

    ``missing`` says why there are no shares; ``advice`` is empty where there is nothing to correct.
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

    @property
    def factors(self) -> Spread:
        """The self factors before any step."""
        return self.history[0]

    @property
    def drift(self) -> float | None:
        """The median self factor at the last step over the first; None without steps or at a median of 0."""
        if len(self.history) < 2 or self.factors.median == 0:
            return None
        return self.history[-1].median / self.factors.median

    def to_json(self) -> dict[str, Any]:
        """Return the layer's numbers; those that are not there are None."""
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
            "step": {"error": _finite(shares.error), "bound": shares.bound, "exact": shares.exact} if shares else None,
            "missing": self.missing,
            "note": self.note,
            "advice": self.advice,
        }


@dataclass(frozen=True)
class Diagnosis:
    """Every layer of a model: the judged ones in the order of their calls, and the others with the reason.

    ``losses`` are those before each step and after the last; ``stopped`` says why there are fewer steps than asked for.
    """

    model: str
    layers: tuple[LayerDiagnosis, ...]
    unjudged: tuple[Unjudged, ...]
    losses: tuple[float, ...]
    rate: float
    training: bool
    stopped: str = ""

    @property
    def ok(self) -> bool:
        """Whether every step that could be checked was the derived one."""
        return all(layer.shares is None or layer.shares.exact for layer in self.layers)

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
            "losses": list(self.losses),
            "stopped": self.stopped,
            "layers": [layer.to_json() for layer in self.layers],
            "unjudged": [asdict(entry) for entry in self.unjudged],
            "ok": self.ok,
        }

    def __str__(self) -> str:
        """Return the table that the command prints."""
        from verify.diagnosis.show import table_text

        return table_text(self)
