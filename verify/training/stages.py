"""Two-stage sweeps: tuning seeds train at every rate, judging seeds only at the chosen ones.

    judging = "best"    tuning seeds at every rate ──▶ the best rate of each setting ──▶ judging seeds at that rate

With ``judging = "all"``, the default, every seed trains at every rate in one stage. Comparisons at best rates use the
same trials in both cases; comparisons at other rates and response surfaces need all trials. A rate is chosen here as
`verify.hypotheses` chooses it later. A setting gets no judging trials if a tuning trial of it failed permanently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace

from verify.training.config import TrialConfig
from verify.training.experiment import BEST, Experiment
from verify.training.export import line
from verify.training.rates import best_rate, tuning_seeds
from verify.training.store import Row

Trials = tuple[TrialConfig, ...]


def tuning_of(experiment: Experiment) -> frozenset[int]:
    """Return the tuning seeds of an experiment."""
    return tuning_seeds([asdict(trial) for trial in experiment.trials])


def first(experiment: Experiment) -> list[Trials]:
    """Return the trials of the first stage, in parts; trials of one part may train as a stack."""
    if experiment.judging != BEST:
        return [experiment.trials]
    tuning = tuning_of(experiment)
    return [tuple(trial for trial in experiment.trials if trial.seed in tuning)]


def second(experiment: Experiment, rows: Sequence[Row]) -> list[Trials]:
    """Return all trials in parts: those of the first stage, and judging trials at the rates that its rows choose."""
    [early] = first(experiment)
    tuning = {trial.seed for trial in early}
    groups: dict[TrialConfig, list[Row]] = defaultdict(list)
    for row in rows:
        if row.config.seed in tuning:
            groups[_setting(row.config)].append(row)
    best = {
        setting: best_rate((), [line(row) for row in group], frozenset(tuning)).learning_rate
        for setting, group in groups.items()
        if all(row.result is not None for row in group)
    }
    late = (trial for trial in experiment.trials if trial.seed not in tuning)
    return [early, tuple(trial for trial in late if best.get(_setting(trial)) == trial.learning_rate)]


def expected(experiment: Experiment) -> Trials:
    """Return the trials of both stages if the middle rate of every grid is the best one."""
    if experiment.judging != BEST:
        return experiment.trials
    tuning = tuning_of(experiment)
    grids: dict[TrialConfig, set[float]] = defaultdict(set)
    for trial in experiment.trials:
        grids[_setting(trial)].add(trial.learning_rate)
    middle = {setting: sorted(grid)[len(grid) // 2] for setting, grid in grids.items()}
    return tuple(t for t in experiment.trials if t.seed in tuning or t.learning_rate == middle[_setting(t)])


def _setting(config: TrialConfig) -> TrialConfig:
    """Return the settings of a trial without rate, seed, data and device."""
    return replace(config, learning_rate=1.0, seed=0, data="", device="cpu")
