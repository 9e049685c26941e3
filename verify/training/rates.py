"""The learning rate that each setting of an experiment does best with, chosen on validation data of tuning seeds.

The seeds of an experiment are divided by a rule that depends on nothing but their numbers: the lowest quarter, at least
one, choose the rates, and the others, with other splits of the data, judge them. Where every setting has one rate there
is nothing to choose, and all seeds judge. A rate at an end of its grid is said to be there: a better one may lie
beyond, and a comparison that rests on it compares grids. Diverged trials count as worse than any that finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from verify.training.experiment import SETTINGS

TUNING_SHARE = 4  # one seed in so many chooses rates
Trial = Mapping[str, Any]  # a line of the exported table: every setting and every metric by name
Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class BestRate:
    """The best rate of one setting: ``setting`` holds what varies in the experiment, without rate and seed.

    ``validation_accuracy`` is the mean over the tuning seeds, None if one diverged at every rate. ``at_edge`` is None
    for a grid of one rate, which has no inside.
    """

    setting: Setting
    learning_rate: float
    validation_accuracy: float | None
    at_edge: bool | None


def tuning_seeds(trials: Sequence[Trial]) -> frozenset[int]:
    """Return the seeds that choose the rates of an experiment; the others judge. None where there is nothing to choose.

    The members of the affine family are chosen from, too, whatever their rates.
    """
    rates: dict[Setting, set[float]] = defaultdict(set)
    names = _varying(trials)
    for trial in trials:
        rates[tuple((name, trial[name]) for name in names)].add(trial["learning_rate"])
    if not any(trial["angle"] for trial in trials) and all(len(found) == 1 for found in rates.values()):
        return frozenset()
    seeds = sorted({trial["seed"] for trial in trials})
    return frozenset(seeds[: max(1, len(seeds) // TUNING_SHARE)])


def best_rates(trials: Sequence[Trial]) -> list[BestRate]:
    """Return the best rate of every setting whose trials are all done, in the order of the trials."""
    tuning = tuning_seeds(trials)
    return [best_rate(setting, group, tuning) for setting, group in by_setting(trials).items()]


def by_setting(trials: Sequence[Trial]) -> dict[Setting, list[Trial]]:
    """Return the trials of each setting, all rates and seeds together, of settings whose trials are all done."""
    names = _varying(trials)
    groups: dict[Setting, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[tuple((name, trial[name]) for name in names)].append(trial)
    return {setting: group for setting, group in groups.items() if all(trial["outcome"] for trial in group)}


def best_rate(setting: Setting, group: Sequence[Trial], tuning: frozenset[int]) -> BestRate:
    """Return the best rate of the trials of one setting, all done, by its tuning seeds, or by all if it has none."""
    by_rate: dict[float, list[Trial]] = defaultdict(list)
    for trial in [trial for trial in group if trial["seed"] in tuning] or group:
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
