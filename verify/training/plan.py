"""Predict what an experiment can show and what it costs, before it is run.

trials ──▶ the expected table ──▶ the number of statements of each hypothesis
seeds, statements, deviation ──▶ the smallest effect detected with the given power; the seeds that a given effect needs
one trial of every network, a few steps ──▶ seconds per step ──▶ CPU time
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verify.hypotheses import judge
from verify.hypotheses.chosen import LEAST_SEEDS, at_best_rates
from verify.hypotheses.finding import Finding
from verify.statistics import pairs_needed, smallest_effect
from verify.threads import one_thread
from verify.training.config import TrialConfig
from verify.training.dataset import Dataset
from verify.training.experiment import Experiment
from verify.training.export import METRICS, line
from verify.training.rates import TUNING_SHARE, Trial, tuning_seeds
from verify.training.stages import expected
from verify.training.store import Row
from verify.training.trial import TrialRun, steps_of

POWER = 0.8
LONGEST = 20.0  # most seconds of measurement in all
_STEPS, _WARM_UP = 12, 2


@dataclass(frozen=True)
class Visible:
    """The detectable effect of one hypothesis: with ``statements`` statements, each over ``seeds`` judging seeds.

    ``smallest`` is the distance beyond a statement's bound, in the unit of ``deviation``; ``needed`` is the number of
    judging seeds required for the wanted effect, None if none is given or no number suffices.
    """

    hypothesis: str
    statements: int
    seeds: int
    smallest: float
    needed: int | None


@dataclass(frozen=True)
class Plan:
    """The plan of an experiment. ``seconds`` are CPU time as measured on this machine, without stacking."""

    name: str
    trials: int
    steps: int
    tuning: tuple[int, ...]
    judging: tuple[int, ...]
    deviation: float | None
    effect: float | None
    power: float
    visible: tuple[Visible, ...]
    open: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the plan in the schema ``affdiv.plan/1``; effects are in standard deviations if none is given."""
        return {
            "schema": "affdiv.plan/1",
            "experiment": self.name,
            "trials": self.trials,
            "steps": self.steps,
            "tuning_seeds": list(self.tuning),
            "judging_seeds": list(self.judging),
            "deviation": self.deviation,
            "effect": self.effect,
            "power": self.power,
            "hypotheses": [
                {
                    "hypothesis": one.hypothesis,
                    "statements": one.statements,
                    "seeds": one.seeds,
                    "smallest_effect": one.smallest if one.seeds > 1 else None,
                    "seeds_needed": one.needed,
                }
                for one in self.visible
            ],
            "not_judged": list(self.open),
            "processor_seconds": self.seconds,
        }


def plan(experiment: Experiment, data_of: Callable[[TrialConfig], Dataset]) -> Plan:
    """Return the plan of an experiment; ``data_of`` returns the data of a trial."""
    aims = dict(experiment.aims)
    deviation, effect, power = aims.get("deviation"), aims.get("effect"), aims.get("power", POWER)
    trials = expected(experiment)
    rows = expected_table(trials)
    tuning = tuning_seeds(rows)
    judging = {row["seed"] for row in rows} - tuning
    findings = judge(rows, experiment.hypotheses)
    tested = [f for f in findings if f.chances is not None and not f.detail]
    counts = Counter(f.hypothesis for f in tested)
    unit = 1.0 if deviation is None else deviation
    visible = []
    for name, statements in sorted(counts.items()):
        seeds = min(f.effect.n for f in tested if f.hypothesis == name and f.effect)
        needed = None if deviation is None or effect is None else pairs_needed(effect, deviation, power, statements)
        smallest = smallest_effect(unit, seeds, power, statements)
        visible.append(Visible(name, statements, seeds, smallest, needed))
    steps, seconds = _cost(trials, data_of)
    return Plan(
        experiment.name,
        len(trials),
        steps,
        tuple(sorted(tuning)),
        tuple(sorted(judging)),
        deviation,
        effect,
        power,
        tuple(visible),
        _refused(tested),
        seconds,
    )


def expected_table(trials: Iterable[TrialConfig]) -> list[Trial]:
    """Return the table of an experiment as if all runs had equal results, with the best rate inside each grid."""
    rows: list[dict[str, Any]] = [
        line(Row(f"{k}", config, "pending", 0, 0, 0, None, None)) for k, config in enumerate(trials)
    ]
    rows = [{**row, **dict.fromkeys(METRICS), **_ENDED, "diverged_at": None} for row in rows]
    middle = {row["trial"]: one.grid[len(one.grid) // 2] for one in at_best_rates(rows) for row in one.trials}
    return [{**row, "validation_accuracy": 0.5 + 0.5 * (row["learning_rate"] == middle[row["trial"]])} for row in rows]


_ENDED = {
    "state": "done",
    "outcome": "finished",
    "validation_accuracy": 0.5,
    "validation_loss": 1.0,
    "test_accuracy": 0.5,
    "test_loss": 1.0,
}


def _refused(tested: Sequence[Finding]) -> tuple[str, ...]:
    """Return the reasons why some statements cannot be decided whatever the results, each reason once."""
    return tuple(dict.fromkeys(f"{f.hypothesis}: {f.reason}" for f in tested if f.reason))


def _cost(trials: Sequence[TrialConfig], data_of: Callable[[TrialConfig], Dataset]) -> tuple[int, float]:
    """Return the steps of all trials, and the CPU seconds estimated from the networks measured in time."""
    kinds: Counter[TrialConfig] = Counter()
    for config in trials:
        alike = replace(config, learning_rate=1e-6, seed=0, evaluate_every=0, probe_every=0, epochs=None, steps=_STEPS)
        size = config.batch_size  # a run evaluates first, which is not measured
        alike = replace(alike, train_samples=size, evaluation_samples=size)
        kinds[alike] += steps_of(config, len(data_of(config).train))
    measured: dict[TrialConfig, float] = {}
    began = time.monotonic()
    with one_thread():
        for config in sorted(
            kinds, key=lambda kind: kind.digest
        ):  # in mixed order, since the time may not suffice for all
            if measured and time.monotonic() - began > LONGEST:
                break
            measured[config] = _seconds_a_step(config, data_of(config))
    typical = sum(measured.values()) / len(measured)
    return kinds.total(), sum(measured.get(kind, typical) * count for kind, count in kinds.items())


def _seconds_a_step(config: TrialConfig, data: Dataset) -> float:
    """Return the CPU seconds of a step of a trial, after a few warm-up steps."""
    run = TrialRun(config, data)
    for _ in range(_WARM_UP):
        run.advance()
    began = time.process_time()
    while run.step < run.total - 1:  # the last step also evaluates
        run.advance()
    return (time.process_time() - began) / (run.total - 1 - _WARM_UP)


def text(found: Plan) -> str:
    """Return a plan as text."""
    lines = [
        f"{found.name}: {found.trials:,} trials, {found.steps:,} steps",
        f"seeds: {_seeds(found.tuning)} choose the rates (one in {TUNING_SHARE}), {_seeds(found.judging)} judge",
    ]
    lines.append(
        f"cost: about {_duration(found.seconds)} on one core of this machine, estimated from a few steps of its "
        "networks; seeds that train as one stack cost less"
    )
    unit = (
        "standard deviations of a paired difference" if found.deviation is None else f"(deviation {found.deviation:g})"
    )
    for one in found.visible:
        lines.append(
            f"{one.hypothesis}: statements {one.statements}, judging seeds {one.seeds}: the smallest effect beyond a "
            f"bound that is detected with power {found.power:g} is {one.smallest:.3g} {unit}"
        )
        if one.seeds < LEAST_SEEDS:
            lines.append(f"  nothing is concluded from fewer than {LEAST_SEEDS} judging seeds")
        if found.effect is not None and found.deviation is not None:
            enough = f"requires {one.needed} judging seeds" if one.needed else "requires more than 10,000 judging seeds"
            lines.append(f"  an effect of {found.effect:g} {enough}")
    lines += [f"undecidable, whatever the results: {reason}" for reason in found.open]
    if not found.visible:
        lines.append("no hypothesis compares these trials")
    return "\n".join(lines)


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _duration(seconds: float) -> str:
    for size, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} seconds"
