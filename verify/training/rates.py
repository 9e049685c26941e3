"""The learning rate that each setting of an experiment does best with, chosen on validation data.

A rate at an end of its grid is said to be there: a better one may lie beyond, and a comparison that rests on it
compares grids. Diverged trials count as worse than any that finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from verify.training.experiment import SETTINGS

Trial = Mapping[str, Any]  # a line of the exported table: every setting and every metric by name
Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class BestRate:
    """The best rate of one setting: ``setting`` holds what varies in the experiment, without rate and seed.

    ``validation_accuracy`` is the mean over the seeds, None if a seed diverged at every rate. ``at_edge`` is None for
    a grid of one rate, which has no inside.
    """

    setting: Setting
    learning_rate: float
    validation_accuracy: float | None
    at_edge: bool | None


def best_rates(trials: Sequence[Trial]) -> list[BestRate]:
    """Return the best rate of every setting whose trials are all done, in the order of the trials."""
    return [best_rate(setting, group) for setting, group in by_setting(trials).items()]


def by_setting(trials: Sequence[Trial]) -> dict[Setting, list[Trial]]:
    """Return the trials of each setting, all rates and seeds together, of settings whose trials are all done."""
    names = _varying(trials)
    groups: dict[Setting, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[tuple((name, trial[name]) for name in names)].append(trial)
    return {setting: group for setting, group in groups.items() if all(trial["outcome"] for trial in group)}


def best_rate(setting: Setting, group: Sequence[Trial]) -> BestRate:
    """Return the best rate of the trials of one setting, all done."""
    by_rate: dict[float, list[Trial]] = defaultdict(list)
    for trial in group:
        by_rate[trial["learning_rate"]].append(trial)
    rates = sorted(by_rate)
    merits = {rate: _merit(by_rate[rate]) for rate in rates}
    best = min(rates, key=lambda rate: merits[rate])
    diverged, loss, _ = merits[best]
    at_edge = best in (rates[0], rates[-1]) if len(rates) > 1 else None
    return BestRate(setting, best, None if diverged else -loss, at_edge)


def _varying(trials: Sequence[Trial]) -> list[str]:
    """Return the names of the settings that differ between trials, the method always among them."""
    names = [name for name in SETTINGS if name not in ("learning_rate", "seed")]
    return [name for name in names if name == "method" or len({trial[name] for trial in trials}) > 1]


def _merit(trials: Sequence[Trial]) -> tuple[int, float, float]:
    """Return what orders rates, the best first: diverged seeds, then accuracy and loss of those that finished."""
    finished = [trial for trial in trials if trial["diverged_at"] is None]
    if not finished:
        return len(trials), 0.0, 0.0
    accuracy = fmean(trial["validation_accuracy"] for trial in finished)
    return len(trials) - len(finished), -accuracy, fmean(trial["validation_loss"] for trial in finished)
