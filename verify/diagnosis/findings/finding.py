"""A finding: the problem, its place, the evidence and threshold, the likely cause and the fix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NON_FINITE = ("non-finite-input", "non-finite-parameter", "non-finite-forward", "non-finite-gradient")
# Causes come before their effects: large data saturate units, and saturated units make gradients vanish.
KINDS = (
    *NON_FINITE,
    "broadcast-loss",
    "outlying-feature",
    "unscaled-input",
    "outlying-sample",
    "duplicate-samples",
    "unscaled-target",
    "growing-activations",
    "saturated-softmax",
    "saturated-units",
    "dead-units",
    "vanishing-gradients",
    "exploding-gradients",
    "dominating-layer",
    "step-too-large",
    "self-factor-spread",
    "cross-terms-only",
)
MILD = ("self-factor-spread", "cross-terms-only")  # found in healthy networks too


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        kind: one of ``KINDS``.
        layer: the layer's name, None for the data or the loss.
        index: the sample, position or feature, or a list of several; None if there is none.
        evidence: the measured numbers; the first is compared with the threshold.
        threshold: the limit of that number; None if there is none.
        cause: the likely cause, a sentence.
        fix: how to fix it, a sentence.
        share: the share of the step that it explains, from 0 to 1.
    """

    kind: str
    layer: str | None
    index: int | list[int] | None
    evidence: Mapping[str, Any]
    threshold: float | None
    cause: str
    fix: str
    share: float = field(default=1.0)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as a mapping; numbers that JSON cannot hold become text."""
        return {
            "kind": self.kind,
            "layer": self.layer,
            "index": self.index,
            "evidence": {name: plain(value) for name, value in self.evidence.items()},
            "threshold": self.threshold,
            "share": plain(self.share),
            "cause": self.cause,
            "fix": self.fix,
        }

    @property
    def place(self) -> str:
        """The place in words: the layer and the index."""
        words = [] if self.layer is None else [self.layer or "(root)"]
        if self.index is not None:
            shown = [self.index] if isinstance(self.index, int) else self.index
            words.append(", ".join(map(str, shown[:5])) + (", .." if len(shown) > 5 else ""))
        return " ".join(words)


def ranked(found: list[Finding]) -> tuple[Finding, ...]:
    """Return findings in order of importance: causes before their effects, then by share of the step."""
    return tuple(sorted(found, key=lambda f: (KINDS.index(f.kind), -f.share)))


def plain(value: Any) -> Any:
    """Return a value in JSON form: infinity and NaN as text, NumPy and torch numbers as Python numbers."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, bool | str | int | type(None)):
        return value
    number = float(value)
    if math.isnan(number):
        return "not a number"
    return number if math.isfinite(number) else ("infinity" if number > 0 else "-infinity")
