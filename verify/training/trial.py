"""One training run on the cross-entropy, with measurements; divergence is a result, not an error.

A run can be stopped between two steps and its state loaded into another run with the same settings, which continues bit
for bit (on the CPU, with the same number of threads).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from verify.training.config import TrialConfig, generator
from verify.training.data import Dataset, Split
from verify.training.layers import Network, loss_of
from verify.training.models import build_for
from verify.training.probe import OwnStep, Probe, Spread
from verify.training.updates import Update


@dataclass(frozen=True)
class Point:
    """Losses (mean cross-entropy, in nats) and accuracy at one step of training; step 0 is before the first update."""

    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial. ``diverged_at`` is the step at which the loss was no longer finite, else None.

    This refers to the loss of a step's batch or the final loss; evaluations on the way never end a run.

    ``test_accuracy`` and ``test_loss`` (mean cross-entropy, in nats) are None for a diverged trial.
    """

    config: TrialConfig
    points: tuple[Point, ...]
    spreads: tuple[Spread, ...]
    diverged_at: int | None
    test_accuracy: float | None
    test_loss: float | None = None
    own_steps: tuple[OwnStep, ...] = ()

    @property
    def outcome(self) -> str:
        """``finished``, or ``diverged at step k``."""
        return "finished" if self.diverged_at is None else f"diverged at step {self.diverged_at}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data, including the trial's digest and outcome."""
        return {"digest": self.config.digest, "outcome": self.outcome, **asdict(self)}


def run_trial(config: TrialConfig, data: Dataset, advance: Callable[[], None] = lambda: None) -> TrialResult:
    """Train one network with the settings ``config`` and return the result; ``advance`` is called after every step."""
    run = TrialRun(config, data)
    while run.advance():
        advance()
    return run.result()


def evaluate(model: Network, split: Split) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy of the model on a part of the data, in evaluation mode."""
    loss, right, asked = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for x, y in split.chunks(model.chunk):
            scores = model(x)
            loss += float(loss_of(scores, y)) * (len(y) / len(split))
            right += int((scores.argmax(dim=-1) == y).sum())
            asked += y.numel()
    model.train()
    return loss, right / asked


class TrialRun:
    """A trial between two steps: its network, its update rule and the measurements so far.

    Args:
        config: the settings.
        data: its data, in ``config.dtype``; it is moved to ``config.device`` here.
        identity: the name of its checkpoints, by default the settings' digest. No number depends on it.
    """

    def __init__(self, config: TrialConfig, data: Dataset, identity: str | None = None) -> None:
        data = data.limited(config.train_samples, config.evaluation_samples)
        self.config, self.data = config, data.to(config.device)
        self.identity = identity or config.digest
        self.total = steps_of(config, len(data.train))
        self.model: Network = build_for(config, data)
        self.update = Update(config.update, self.model, config.learning_rate)
        self.step = 0
        self.diverged_at: int | None = None
        self.points: list[Point] = []
        self.spreads: list[Spread] = []
        self.own_steps: list[OwnStep] = []
        self._order: tuple[int, Tensor] = (-1, torch.empty(0, dtype=torch.long))

    def advance(self) -> bool:
        """Take one step and measure; return whether a step was taken: False at the end and after divergence."""
        if self.step == 0 and not self.points and self.diverged_at is None:
            self.measure()
        if self.step == self.total or self.diverged_at is not None:
            return False
        self.step += 1
        self._guarded(self._learn)
        return True

    def result(self) -> TrialResult:
        """Return the result, with the test part evaluated if the run has finished."""
        loss, accuracy = (None, None) if self.diverged_at is not None else evaluate(self.model, self.data.test)
        if loss is not None and not math.isfinite(loss):
            loss, accuracy, self.diverged_at = None, None, self.step
        points, spreads, own_steps = tuple(self.points), tuple(self.spreads), tuple(self.own_steps)
        return TrialResult(self.config, points, spreads, self.diverged_at, accuracy, loss, own_steps)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step, counted from 1; it depends only on seed and epoch, so methods are paired."""
        train, size = self.data.train, self.config.batch_size
        epoch, position = divmod(step - 1, steps_per_epoch(self.config, len(train)))
        return train.of(self.order(epoch)[position * size : (position + 1) * size])

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self.model)

    def look(self) -> None:
        """Record a probe at this step; non-finite numbers are left out and do not end the run."""
        randomness = generator("probe", self.config.seed, self.step)
        probed = self.data.train.first(self.model.probed).gathered()
        spreads, own_steps = self._probe.measure(probed, self.step, randomness)
        self.spreads += [one for one in spreads if _finite(one.maximum, one.coefficient_of_variation)]
        self.own_steps += [one for one in own_steps if _finite(*one.measured())]

    def order(self, epoch: int) -> Tensor:
        """Return the order of the training samples in an epoch, counted from 0; the last result is cached."""
        if self._order[0] != epoch:
            order = torch.randperm(len(self.data.train), generator=generator("order", self.config.seed, epoch))
            self._order = (epoch, order.to(self.data.train.y.device))
        return self._order[1]

    def measure(self) -> None:
        """Measure the network at the current step if due."""
        self._guarded(self._measure)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _Diverged:
            self.diverged_at = self.step

    def _learn(self) -> None:
        x, y = self.batch(self.step)
        with self.update.watching():
            loss = loss_of(self.model(x), y)
        if not _finite(loss.item()):
            raise _Diverged
        loss.backward()
        self.update.step(self.step)
        self._measure()

    def _measure(self) -> None:
        """Record losses, accuracy and a probe if due at this step; the last step always is."""
        if self._due(self.config.evaluate_every or self.total):
            self._evaluate()
        if self.config.probe_every and self._due(self.config.probe_every):
            self.look()

    def _evaluate(self) -> None:
        train_loss, _ = evaluate(self.model, self.data.train.first(self.model.evaluated))
        validation_loss, accuracy = evaluate(self.model, self.data.validation)
        if not _finite(train_loss, validation_loss):
            if self.step == self.total:  # every run is evaluated at the end
                raise _Diverged
            return
        self.points.append(Point(self.step, train_loss, validation_loss, accuracy))

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.total


class _Diverged(Exception):
    """Raised inside a trial by the first non-finite number."""


def steps_per_epoch(config: TrialConfig, samples: int) -> int:
    """Return the number of updates in one epoch over ``samples`` training samples; a partial last batch is dropped."""
    return max(1, samples // config.batch_size)


def steps_of(config: TrialConfig, samples: int) -> int:
    """Return the number of updates of a trial with ``samples`` training samples."""
    used = min(samples, config.train_samples or samples)
    return config.steps or (config.epochs or 0) * steps_per_epoch(config, used)


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
