"""Choose the best learning rate of each setting of an experiment, on the validation data of tuning seeds.

The seeds of an experiment are divided by a rule that depends only on their numbers: the lowest quarter, at least one,
tune the rates, and the others, with other splits of the data, judge. If every setting has a single rate there is
nothing to tune, and all seeds judge. A best rate at the edge of its grid is marked, because a better one may lie beyond
it, and comparisons would depend on the grid. Diverged trials rank below all that finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from verify.training.experiment import SETTINGS

TUNING_SHARE = 4  # one seed in this many tunes rates
Trial = Mapping[str, Any]  # a line of the exported table: every setting and every metric by name
Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class BestRate:
    """The best rate of one setting; ``setting`` holds the varying settings, without rate and seed.

    ``validation_accuracy`` is the mean over the tuning seeds, None if one diverged at every rate. ``at_edge`` is None
    for a grid of one rate.
    """

    setting: Setting
    learning_rate: float
    validation_accuracy: float | None
    at_edge: bool | None


def tuning_seeds(trials: Sequence[Trial]) -> frozenset[int]:
    """Return the seeds that tune the rates of an experiment; the others judge. Empty if there is nothing to tune.

    The choice among members of the affine family counts as tuning too, whatever their rates.
    """
    rates: dict[Setting, set[float]] = defaultdict(set)
    names = _varying(trials)
    for trial in trials:
        rates[tuple((name, trial[name]) for name in names)].add(trial["learning_rate"])
    if not any(trial["angle"] for trial in trials) and all(len(found) == 1 for found in rates.values()):
        return frozenset()
    seeds = sorted({trial["seed"] for trial in trials})
    return frozenset(seeds[: max(1, len(seeds) // TUNING_SHARE)])


def best_rates(trials: Sequence[Trial], tuning: frozenset[int] | None = None) -> list[BestRate]:
    """Return the best rate of every setting with all trials done, in the order of the trials.

    ``tuning`` are the tuning seeds; they do not follow from the trials if trials of judging seeds are still missing.
    """
    tuning = tuning_seeds(trials) if tuning is None else tuning
    return [best_rate(setting, group, tuning) for setting, group in by_setting(trials).items()]


def by_setting(trials: Sequence[Trial]) -> dict[Setting, list[Trial]]:
    """Return the trials of each setting over all rates and seeds, for settings with all trials done."""
    names = _varying(trials)
    groups: dict[Setting, list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[tuple((name, trial[name]) for name in names)].append(trial)
    return {setting: group for setting, group in groups.items() if all(trial["outcome"] for trial in group)}


def best_rate(setting: Setting, group: Sequence[Trial], tuning: frozenset[int]) -> BestRate:
    """Return the best rate of one setting, with all trials done, by its tuning seeds, or by all if it has none."""
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
    """Return the names of the settings that differ between trials, and always the method."""
    names = [name for name in SETTINGS if name not in ("learning_rate", "seed")]
    return [name for name in names if name == "method" or len({trial[name] for trial in trials}) > 1]


def _merit(trials: Sequence[Trial]) -> tuple[int, float, float]:
    """Return the sort key of a rate, best first: diverged seeds, then accuracy and loss of the finished ones."""
    finished = [trial for trial in trials if trial["diverged_at"] is None]
    if not finished:
        return len(trials), 0.0, 0.0
    accuracy = fmean(trial["validation_accuracy"] for trial in finished)
    return len(trials) - len(finished), -accuracy, fmean(trial["validation_loss"] for trial in finished)
