"""A small experiment: tune each method's learning rate on validation data, then train with it on new seeds.

The grid is in the effective rate ``eta * kappa`` (theory, section 2), where kappa is the self factor that a method
gives a layer of the network's width, so that every method covers the same range of steps in activation space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean
from typing import Any

import torch

from verify.threads import one_thread
from verify.training.config import METHODS, TrialConfig
from verify.training.data import Dataset, load
from verify.training.models import make_layer
from verify.training.trial import TrialResult, run_trial, steps_of

EFFECTIVE_RATES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class Plan:
    """The trials of a small experiment; ``base`` holds every setting except method, rate, seed and probing."""

    base: TrialConfig
    methods: tuple[str, ...] = METHODS
    effective_rates: tuple[float, ...] = EFFECTIVE_RATES
    seeds: int = 3
    probe_every: int = 20

    def tuning(self) -> list[TrialConfig]:
        """Return the tuning trials: every method at every rate, on the base's seed, without probes."""
        return [
            replace(self.base, method=method, learning_rate=rate / nominal_kappa(method, self.base.width))
            for method in self.methods
            for rate in self.effective_rates
        ]

    def final(self, chosen: dict[str, float]) -> list[TrialConfig]:
        """Return the reported trials: each method at its chosen rate, on seeds not used for tuning."""
        return [
            replace(self.base, method=method, learning_rate=chosen[method], seed=seed, probe_every=self.probe_every)
            for method in self.methods
            for seed in range(self.base.seed + 1, self.base.seed + 1 + self.seeds)
        ]

    def updates(self, samples: int) -> int:
        """Return the number of optimiser steps of the whole experiment if no trial diverges."""
        trials = len(self.methods) * (len(self.effective_rates) + self.seeds)
        return trials * steps_of(self.base, samples)


@dataclass(frozen=True)
class Choice:
    """The rate chosen for a method, and whether it is at the edge of the grid (a better one may then lie beyond)."""

    method: str
    learning_rate: float
    effective_rate: float
    at_edge: bool


@dataclass(frozen=True)
class SweepResult:
    """The results of a small experiment."""

    plan: Plan
    data_digest: str
    parts: tuple[int, int, int]
    choices: tuple[Choice, ...]
    tuning: tuple[TrialResult, ...]
    final: tuple[TrialResult, ...]

    def of(self, method: str) -> list[TrialResult]:
        """Return the reported trials of a method, by seed."""
        return [result for result in self.final if result.config.method == method]

    def choice(self, method: str) -> Choice:
        """Return the chosen rate of a method."""
        return next(choice for choice in self.choices if choice.method == method)

    def to_json(self) -> dict[str, Any]:
        """Return the whole experiment as plain data."""
        return {
            "data": {"name": self.plan.base.data, "digest": self.data_digest, "parts": list(self.parts)},
            "choices": [vars(choice) for choice in self.choices],
            "tuning": [result.to_json() for result in self.tuning],
            "final": [result.to_json() for result in self.final],
        }


def short_plan(seed: int) -> Plan:
    """Return the plan of the short run: an MLP on digits that trains on two cores in well under a minute."""
    return Plan(TrialConfig(method="none", learning_rate=1.0, seed=seed))


@cache
def nominal_kappa(method: str, width: int, angle: str | None = None) -> float:
    """Return the self factor that a method gives a layer of ``width`` inputs.

    A generated layer states it. For the others it is ``width + 1``: on average for batch-norm, and for none if the
    input entries have a second moment of 1.
    """
    with torch.device("meta"):
        layer = make_layer(method, width, 1, angle)
    return float(getattr(layer, "kappa", width + 1))


def run_sweep(plan: Plan, progress: Callable[[int, int], None] = lambda done, total: None) -> SweepResult:
    """Tune, choose and train; ``progress`` is called with the done and total updates after every update."""
    data = _data_of(plan.base)
    total = plan.updates(len(data.train))
    counter = _Counter(total, progress)
    trials = steps_of(plan.base, len(data.train))
    with one_thread():
        tuning = tuple(run_trial(c, _data_of(c), counter.one) for c in counter.trials(plan.tuning(), trials))
        choices = tuple(choose(plan, method, tuning) for method in plan.methods)
        chosen = {choice.method: choice.learning_rate for choice in choices}
        final = tuple(run_trial(c, _data_of(c), counter.one) for c in counter.trials(plan.final(chosen), trials))
    parts = (len(data.train), len(data.validation), len(data.test))
    return SweepResult(plan, data.digest, parts, choices, tuning, final)


def _data_of(config: TrialConfig) -> Dataset:
    return load(config.data, config.split, config.torch_dtype)


def choose(plan: Plan, method: str, tuning: tuple[TrialResult, ...]) -> Choice:
    """Return the rate with the best final validation accuracy; ties go to the lower validation loss.

    A diverged trial ranks last; if all diverged, the smallest rate is chosen and reported as at the edge.
    """
    own = [result for result in tuning if result.config.method == method]
    best = min(own, key=_merit)
    rates = sorted(result.config.learning_rate for result in own)
    rate = best.config.learning_rate
    kappa = nominal_kappa(method, plan.base.width)
    return Choice(method, rate, rate * kappa, at_edge=rate in (rates[0], rates[-1]))


def mean_test_accuracy(results: list[TrialResult]) -> float | None:
    """Return the mean test accuracy over the trials, or None if one of them diverged."""
    accuracies = [r.test_accuracy for r in results if r.test_accuracy is not None]
    return mean(accuracies) if len(accuracies) == len(results) else None


def _merit(result: TrialResult) -> tuple[bool, float, float, float]:
    rate = result.config.learning_rate
    if result.diverged_at is not None:
        return (True, 0.0, 0.0, rate)
    last = result.points[-1]
    return (False, -last.validation_accuracy, last.validation_loss, rate)


class _Counter:
    """Counts updates over trials; a diverged trial counts in full, so that the progress is not left behind."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def one(self) -> None:
        self.done += 1
        self.progress(self.done, self.total)

    def trials(self, configs: list[TrialConfig], steps: int) -> Iterator[TrialConfig]:
        """Yield each trial; after it, set the count to the value after its last step."""
        for config in configs:
            start = self.done
            yield config
            self.done = start + steps
            self.progress(self.done, self.total)
