"""Performance targets on a GPU, and the figures measured for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from verify.gpu.part import Result

Rows = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A bound on a figure of one part; ``figure`` computes it from rows by provider; ``least`` marks a lower bound."""

    what: str
    part: str
    figure: Callable[[Rows], float]
    bound: float
    least: bool = False


def _best(rows: Rows, part: str = "both", graphed: bool = False) -> float:
    """Return the smallest time ratio to torch's layer among our uncompiled layers."""
    chosen = [r for r in rows.values() if r["ours"] and r["provider"].endswith(", graph") == graphed]
    return min(float(r["ratio"][part]["median"]) for r in chosen)


def _gain(rows: Rows, other: str) -> float:
    return float(rows[other]["ratio"]["both"]["median"]) / _best(rows)


TARGETS = (
    Target("affine-like, forward and backward, of nn.Linear", "8192x4096x4096", _best, 1.08),
    Target("affine-like, forward and backward, of nn.Linear", "65536x256x256", _best, 1.15),
    Target(
        "times faster than torch.compile of the composition",
        "65536x256x256",
        lambda rows: _gain(rows, "plain, compiled"),
        1.8,
        least=True,
    ),
    Target("PatchNorm, forward, of nn.Conv2d", "64x256x256x28x3", lambda rows: _best(rows, "forward"), 1.15),
    Target("PatchNorm, forward, of nn.Conv2d", "64x64x64x56x3", lambda rows: _best(rows, "forward"), 1.55),
)
_NORM = "row-norm prepass"
_COPY_SHARE = 0.9


def judged(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return every measured target, with its figure and whether it was reached."""
    found = []
    for target in TARGETS:
        rows = {row["provider"]: row for row in results.get(target.part, {}).get("speed", {}).get("rows", [])}
        if rows:
            figure = _figure(target, rows)
            reached = figure is not None and (figure >= target.bound if target.least else figure <= target.bound)
            found.append(_line(target.what, target.part, figure, target.bound, target.least, reached))
    share = results.get(_NORM, {}).get("copy_share")
    if share is not None:
        found.append(_line("share of the copy bandwidth", _NORM, share, _COPY_SHARE, True, share >= _COPY_SHARE))
    return found


def _figure(target: Target, rows: Rows) -> float | None:
    """Return the figure, None if a provider that it needs was not measured."""
    try:
        return target.figure(rows)
    except (KeyError, ValueError):
        return None


def _line(what: str, part: str, figure: float | None, bound: float, least: bool, reached: bool) -> dict[str, Any]:
    key = "at_least" if least else "at_most"
    return {"what": what, "part": part, "measured": figure, key: bound, "reached": reached}
