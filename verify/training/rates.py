"""The learning rate that each setting of an experiment does best with, chosen on validation data.

A rate at an end of its grid is said to be there: a better one may lie beyond, and a comparison that rests on it
compares grids. Diverged trials count as worse than any that finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from verify.training.store import Row


@dataclass(frozen=True)
class BestRate:
    """The best rate of one setting: ``setting`` holds what varies in the experiment, without rate and seed.

    ``validation_accuracy`` is the mean over the seeds, None if a seed diverged at every rate. ``at_edge`` is None for
    a grid of one rate, which has no inside.
    """

    setting: tuple[tuple[str, Any], ...]
    learning_rate: float
    validation_accuracy: float | None
    at_edge: bool | None


def best_rates(rows: Sequence[Row]) -> list[BestRate]:
    """Return the best rate of every setting whose trials are all done, in the order of the experiment."""
    varying = _varying(rows)
    groups: dict[tuple[tuple[str, Any], ...], list[Row]] = defaultdict(list)
    for row in rows:
        settings = asdict(row.config)
        groups[tuple((name, settings[name]) for name in varying)].append(row)
    return [_best(setting, group) for setting, group in groups.items() if all(row.result for row in group)]


def _varying(rows: Sequence[Row]) -> list[str]:
    """Return the names of the settings that differ between trials, the method always among them."""
    settings = [asdict(row.config) for row in rows]
    names = settings[0].keys() - {"learning_rate", "seed"} if settings else set()
    several = {name for name in names if len({one[name] for one in settings}) > 1}
    return [name for name in (settings[0] if settings else ()) if name in several | {"method"}]


def _best(setting: tuple[tuple[str, Any], ...], group: list[Row]) -> BestRate:
    by_rate: dict[float, list[Row]] = defaultdict(list)
    for row in group:
        by_rate[row.config.learning_rate].append(row)
    rates = sorted(by_rate)
    merits = {rate: _merit(by_rate[rate]) for rate in rates}
    best = min(rates, key=lambda rate: merits[rate])
    diverged, loss, _ = merits[best]
    at_edge = best in (rates[0], rates[-1]) if len(rates) > 1 else None
    return BestRate(setting, best, None if diverged else -loss, at_edge)


def _merit(rows: list[Row]) -> tuple[int, float, float]:
    """Return what orders rates, the best first: diverged seeds, then accuracy and loss of those that finished."""
    finished = [row.result["points"][-1] for row in rows if row.result and row.result["diverged_at"] is None]
    if not finished:
        return len(rows), 0.0, 0.0
    accuracy = fmean(point["validation_accuracy"] for point in finished)
    return len(rows) - len(finished), -accuracy, fmean(point["validation_loss"] for point in finished)
