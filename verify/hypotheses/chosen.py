"""The trials that comparisons rest on: each setting's at the rate that it does best with, in pairs of one seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from verify.hypotheses.finding import Finding, open_finding
from verify.statistics import Effect, Verdict, paired_difference, slope_within
from verify.training.experiment import SETTINGS
from verify.training.rates import BestRate, Trial, best_rate, by_setting

LEAST_SEEDS = 5
ACCURACY, LOSS = "test_accuracy", "test_loss"
_TUNED = ("learning_rate", "seed")


@dataclass(frozen=True)
class Chosen:
    """One setting: all of it but rate and seed, its best rate, its trials at that rate by seed, and all its trials.

    ``by_seed`` holds the trials that finished.
    """

    settings: Mapping[str, Any]
    best: BestRate
    by_seed: Mapping[int, Trial]
    trials: Sequence[Trial]

    def at(self, rate: float) -> Chosen:
        """Return the setting at another rate of its grid."""
        return Chosen(self.settings, self.best, finished(self.trials, rate), self.trials)

    def key(self, *without: str) -> tuple[tuple[str, Any], ...]:
        """Return the settings as a key, but for those named."""
        return tuple((name, value) for name, value in self.settings.items() if name not in without)


def at_best_rates(trials: Sequence[Trial]) -> list[Chosen]:
    """Return every setting whose trials are all done at its best rate."""
    found = []
    for setting, group in by_setting(trials).items():
        best = best_rate(setting, group)
        settings = {name: group[0][name] for name in SETTINGS if name not in _TUNED}
        found.append(Chosen(settings, best, finished(group, best.learning_rate), group))
    return found


def finished(trials: Iterable[Trial], rate: float) -> dict[int, Trial]:
    """Return the trials at one rate that came to their end, by seed."""
    return {t["seed"]: t for t in trials if t["learning_rate"] == rate and t["diverged_at"] is None}


def of(chosen: Iterable[Chosen], **wanted: Any) -> list[Chosen]:
    """Return the settings that have the wanted values."""
    return [c for c in chosen if all(c.settings[name] == value for name, value in wanted.items())]


def methods_of(chosen: Iterable[Chosen]) -> list[str]:
    """Return the methods that occur, sorted."""
    return sorted({c.settings["method"] for c in chosen})


@dataclass(frozen=True)
class Pairs:
    """Settings that differ in nothing but what is compared, side by side."""

    cells: tuple[tuple[Chosen, Chosen], ...]

    @property
    def chosen(self) -> list[Chosen]:
        """All settings on both sides."""
        return [side for cell in self.cells for side in cell]

    def trials(self) -> tuple[str, ...]:
        """Return the ids of the trials that are in pairs."""
        return ids(t[k] for cell in self.cells for t in _common(cell) for k in (0, 1))

    def effect(self, measure: str = ACCURACY) -> Effect | None:
        """Return the mean of first minus second over seeds; None where fewer than two seeds are in pairs.

        Trials of one seed share its data and its first values: they count once, by their mean over the cells.
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
    """Return the settings of both sides that agree in everything but what is compared."""
    theirs = {c.key(*compared): c for c in second}
    return Pairs(tuple((c, theirs[c.key(*compared)]) for c in first if c.key(*compared) in theirs))


def compare(
    finding: tuple[str, str, str], pairs: Pairs, measure: str = ACCURACY, falling: bool = False, detail: bool = False
) -> Finding:
    """Return the comparison of pairs as a finding not judged yet.

    Args:
        finding: hypothesis, statement, criterion.
        pairs: what is compared; the effect is first minus second, or second minus first where ``falling``.
        measure: the column that is compared.
        falling: whether less of it is better.
        detail: whether another finding is the one that decides.
    """
    effect = Pairs(tuple((b, a) for a, b in pairs.cells)).effect(measure) if falling else pairs.effect(measure)
    if effect is None:
        return open_finding(*finding, "fewer than two seeds finished in pairs")
    name = measure.replace("_", " ") + (", how much lower" if falling else "")
    return Finding(
        *finding, Verdict.INCONCLUSIVE, effect, limits(pairs.chosen), pairs.trials(), measure=name, detail=detail
    )


def limits(chosen: Sequence[Chosen], tuned: bool = True) -> str:
    """Return why no conclusion may rest on these settings; nothing if it may.

    ``tuned`` says that each stands at its best rate, which must then lie inside its grid.
    """
    seeds = min((len(c.by_seed) for c in chosen), default=0)
    reasons = [f"{seeds} seeds, {LEAST_SEEDS} are needed"] if seeds < LEAST_SEEDS else []
    for method in methods_of(chosen) if tuned else ():
        own = of(chosen, method=method)
        edges = sum(c.best.at_edge is True for c in own)
        where = f" in {edges} of {len(own)} settings" if len(own) > 1 else ""
        reasons += [f"the best rate of {method} is at the edge of its grid{where}"] if edges else []
    return "; ".join(reasons)


def slope(points: Iterable[tuple[int, Any, float, float]]) -> Effect | None:
    """Return the mean slope over seeds of points (seed, line, x, y); None for fewer than two seeds with a slope."""
    lines: dict[int, dict[Any, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for seed, line, x, y in points:
        lines[seed][line].append((x, y))
    groups = [[line for line in lines[seed].values() if len({x for x, _ in line}) > 1] for seed in sorted(lines)]
    sloping = [group for group in groups if group]
    return slope_within(sloping) if len(sloping) > 1 else None


def ids(trials: Iterable[Trial]) -> tuple[str, ...]:
    """Return the ids of trials, each once."""
    return tuple(dict.fromkeys(trial["trial"] for trial in trials))


def _common(cell: tuple[Chosen, Chosen]) -> list[tuple[Trial, Trial]]:
    ours, theirs = cell
    return [(ours.by_seed[seed], theirs.by_seed[seed]) for seed in sorted(ours.by_seed.keys() & theirs.by_seed.keys())]
