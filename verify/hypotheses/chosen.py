"""Select the trials for comparisons: each setting at its best rate, in pairs of equal seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from verify.hypotheses.finding import Finding, open_finding, tested
from verify.statistics import Effect, Region, Verdict, paired_difference, slope_within
from verify.training.experiment import SETTINGS
from verify.training.rates import BestRate, Trial, best_rate, by_setting, tuning_seeds

LEAST_SEEDS = 5
ACCURACY, LOSS = "test_accuracy", "test_loss"
_TUNED = ("learning_rate", "seed")
_ALIKE = 1.25  # allowed ratio between the steps of two grids; 0.1, 0.3, 1.0 has steps of 3 and 3.33


@dataclass(frozen=True)
class Chosen:
    """One setting (everything but rate and seed): its best rate, its judging trials there by seed, and all its trials.

    Diverged trials are included, with the measures that ``with_failures`` assigns.
    """

    settings: Mapping[str, Any]
    best: BestRate
    by_seed: Mapping[int, Trial]
    trials: Sequence[Trial]
    tuning: frozenset[int]

    def at(self, rate: float) -> Chosen:
        """Return the setting at another rate of its grid."""
        return replace(self, by_seed=judging(self.trials, rate, self.tuning))

    def key(self, *without: str) -> tuple[tuple[str, Any], ...]:
        """Return the settings as a key, without those named."""
        return tuple((name, value) for name, value in self.settings.items() if name not in without)

    @property
    def grid(self) -> list[float]:
        """The rates, ascending."""
        return sorted({trial["learning_rate"] for trial in self.trials})


def at_best_rates(trials: Sequence[Trial]) -> list[Chosen]:
    """Return every setting with all trials done, at the rate that is best for its tuning seeds."""
    trials = with_failures(trials)
    tuning, found = tuning_seeds(trials), []
    for setting, group in by_setting(trials).items():
        best = best_rate(setting, group, tuning)
        settings = {name: group[0][name] for name in SETTINGS if name not in _TUNED}
        found.append(Chosen(settings, best, judging(group, best.learning_rate, tuning), group, tuning))
    return found


def with_failures(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, with a failure's measures for diverged ones: accuracy 0, and the worst loss of all.

    Leaving out diverged runs would favour the method that diverges.
    """
    losses = [t[LOSS] for t in trials if t[LOSS] is not None]
    failed = {ACCURACY: 0.0, LOSS: max(losses, default=0.0)}
    return [t if t["diverged_at"] is None else {**t, **failed} for t in trials]


def judging(trials: Iterable[Trial], rate: float, tuning: frozenset[int]) -> dict[int, Trial]:
    """Return the judging trials at one rate, by seed."""
    return {t["seed"]: t for t in trials if t["learning_rate"] == rate and t["seed"] not in tuning}


def of(chosen: Iterable[Chosen], **wanted: Any) -> list[Chosen]:
    """Return the settings with the given values."""
    return [c for c in chosen if all(c.settings[name] == value for name, value in wanted.items())]


def methods_of(chosen: Iterable[Chosen]) -> list[str]:
    """Return the methods that occur, sorted."""
    return sorted({c.settings["method"] for c in chosen})


def failures(chosen: Iterable[Chosen]) -> str:
    """Describe how many judging trials of each method diverged; empty if none did."""
    own = list(chosen)
    counts = {
        m: [t["diverged_at"] is not None for c in of(own, method=m) for t in c.by_seed.values()]
        for m in methods_of(own)
    }
    lost = [f"{sum(found)} of {len(found)} runs of {method}" for method, found in counts.items() if any(found)]
    return f"counted as failures, for they diverged: {', '.join(lost)}" if lost else ""


@dataclass(frozen=True)
class Pairs:
    """Pairs of settings that differ only in the compared property."""

    cells: tuple[tuple[Chosen, Chosen], ...]

    @property
    def chosen(self) -> list[Chosen]:
        """All settings on both sides."""
        return [side for cell in self.cells for side in cell]

    def trials(self) -> tuple[str, ...]:
        """Return the ids of the paired trials."""
        return ids(t[k] for cell in self.cells for t in _common(cell) for k in (0, 1))

    def effect(self, measure: str = ACCURACY) -> Effect | None:
        """Return the mean of first minus second over seeds; None with fewer than two paired seeds.

        Trials of one seed share the data split, the order and (if shapes agree) the initial weights, so each seed
        counts once, by its mean over the cells.
        """
        by_seed: dict[int, list[float]] = defaultdict(list)
        for cell in self.cells:
            for ours, theirs in _common(cell):
                by_seed[ours["seed"]].append(ours[measure] - theirs[measure])
        if len(by_seed) < 2:
            return None
        means = [fmean(by_seed[seed]) for seed in sorted(by_seed)]
        return paired_difference(means, [0.0] * len(means))


def pair(first: Iterable[Chosen], second: Iterable[Chosen], *compared: str) -> Pairs:
    """Return the pairs of settings that agree in everything but the ``compared`` properties."""
    theirs = {c.key(*compared): c for c in second}
    return Pairs(tuple((c, theirs[c.key(*compared)]) for c in first if c.key(*compared) in theirs))


def compare(
    finding: tuple[str, str, str],
    pairs: Pairs,
    region: Region,
    measure: str = ACCURACY,
    falling: bool = False,
    detail: bool = False,
    tuned: bool = True,
) -> Finding:
    """Return the comparison of pairs as a finding without a verdict yet.

    Args:
        finding: hypothesis, statement, criterion.
        pairs: the compared settings; the effect is first minus second, or second minus first if ``falling``.
        region: the effects that the statement claims.
        measure: the compared column.
        falling: whether a smaller value is better.
        detail: whether another finding decides.
        tuned: whether each setting is at its best rate, which must then lie inside its grid.
    """
    effect = Pairs(tuple((b, a) for a, b in pairs.cells)).effect(measure) if falling else pairs.effect(measure)
    if effect is None:
        too_few = open_finding(*finding, "fewer than two judging seeds are in pairs", detail)
        return replace(too_few, trials=ids(t for c in pairs.chosen for t in c.trials))
    name = measure.replace("_", " ") + (", how much lower" if falling else "")
    limit, notes = limits(pairs.chosen, tuned), failures(pairs.chosen)
    found = Finding(*finding, Verdict.INCONCLUSIVE, effect, limit, pairs.trials(), name, detail, notes)
    return tested(found, region)


def limits(chosen: Sequence[Chosen], tuned: bool = True) -> str:
    """Return why these settings allow no conclusion, or an empty text if they do.

    With ``tuned`` each setting is at its best rate: that must lie inside its grid, and the grids must be equally fine.
    One grid may extend further, because a best rate inside a grid stays the best in a longer one. A method with a
    single rate, where others have several, is not at its best rate.
    """
    seeds = min((len(c.by_seed) for c in chosen), default=0)
    reasons = [f"{seeds} judging seeds, {LEAST_SEEDS} are needed"] if seeds < LEAST_SEEDS else []
    if any(c.settings["split_seed"] is not None for c in chosen):
        reasons.append("all seeds share one split of the data")
    for method in methods_of(chosen) if tuned else ():
        own = of(chosen, method=method)
        edges = sum(c.best.at_edge is True for c in own)
        where = f" in {edges} of {len(own)} settings" if len(own) > 1 else ""
        reasons += [f"the best rate of {method} is at the edge of its grid{where}"] if edges else []
        single = any(len(c.grid) == 1 and c.tuning and c.settings["angle"] is None for c in own)
        reasons += [f"{method} has one rate, of which nothing was chosen"] if single else []
    return "; ".join([*reasons, *(_unequal_grids(chosen) if tuned else [])])


def _unequal_grids(chosen: Sequence[Chosen]) -> list[str]:
    """Describe methods with finer grids than others; a grid of one rate counts as infinitely coarse."""
    steps = {c.settings["method"]: _step(c.grid) for c in sorted(chosen, key=lambda c: _step(c.grid))}
    if not steps or max(steps.values()) <= _ALIKE * min(steps.values()):
        return []
    words = ", ".join(f"{method} {'one rate' if math.isinf(s) else f'{s:.3g}'}" for method, s in sorted(steps.items()))
    return [f"the grids of rates are not equally fine (step: {words})"]


def _step(grid: Sequence[float]) -> float:
    """Return the typical ratio of neighbouring rates."""
    return median(b / a for a, b in pairwise(grid)) if len(grid) > 1 else math.inf


def slope(points: Iterable[tuple[int, Any, float, float]]) -> Effect | None:
    """Return the mean over seeds of the slope of points (seed, line, x, y); None with fewer than two such seeds."""
    lines: dict[int, dict[Any, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for seed, line, x, y in points:
        lines[seed][line].append((x, y))
    groups = [[line for line in lines[seed].values() if len({x for x, _ in line}) > 1] for seed in sorted(lines)]
    sloping = [group for group in groups if group]
    return slope_within(sloping) if len(sloping) > 1 else None


def ids(trials: Iterable[Trial]) -> tuple[str, ...]:
    """Return the ids of trials without repeats."""
    return tuple(dict.fromkeys(trial["trial"] for trial in trials))


def _common(cell: tuple[Chosen, Chosen]) -> list[tuple[Trial, Trial]]:
    ours, theirs = cell
    return [(ours.by_seed[seed], theirs.by_seed[seed]) for seed in sorted(ours.by_seed.keys() & theirs.by_seed.keys())]
