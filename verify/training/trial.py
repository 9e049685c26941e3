"""One training run: plain SGD on the cross-entropy, measured as it goes; divergence is a result, not an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from verify.training.config import TrialConfig, generator
from verify.training.data import Dataset, Split
from verify.training.models import MLP, build
from verify.training.probe import Spread, measure_model

PROBE_SAMPLES = 32


@dataclass(frozen=True)
class Point:
    """Losses (mean cross-entropy, in nats) and accuracy at one step of training; step 0 is before the first update."""

    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrialResult:
    """What one trial gave. ``diverged_at`` is the step whose loss or self factor was no longer finite, else None.

    ``test_accuracy`` is None for a diverged trial.
    """

    config: TrialConfig
    points: tuple[Point, ...]
    spreads: tuple[Spread, ...]
    diverged_at: int | None
    test_accuracy: float | None

    @property
    def outcome(self) -> str:
        """``finished``, or ``diverged at step k``."""
        return "finished" if self.diverged_at is None else f"diverged at step {self.diverged_at}"

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data, the trial's digest and outcome included."""
        return {"digest": self.config.digest, "outcome": self.outcome, **asdict(self)}


class _Diverged(Exception):
    """Raised inside a trial by the first number that is not finite."""


def run_trial(config: TrialConfig, data: Dataset, advance: Callable[[], None] = lambda: None) -> TrialResult:
    """Train one network as ``config`` says and return what was measured; ``advance`` is called after every step."""
    run = _Run(config, data)
    diverged_at: int | None = None
    try:
        run.measure()
        for x, y in run.batches():
            run.update(x, y)
            run.measure()
            advance()
    except _Diverged:
        diverged_at = run.step
    accuracy = None if diverged_at is not None else evaluate(run.model, data.test)[1]
    return TrialResult(config, tuple(run.points), tuple(run.spreads), diverged_at, accuracy)


def evaluate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy of the model on a part of the data, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        scores = model(split.x)
        loss = float(cross_entropy(scores, split.y))
        accuracy = float((scores.argmax(dim=1) == split.y).double().mean())
    model.train()
    return loss, accuracy


class _Run:
    """The state of a trial between two steps."""

    def __init__(self, config: TrialConfig, data: Dataset) -> None:
        self.config, self.data = config, data
        self.model: MLP = build(config, data.features, data.classes)
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=config.learning_rate)
        self.probe_generator = generator(config.digest, "probe")
        self.step = 0
        self.points: list[Point] = []
        self.spreads: list[Spread] = []

    @property
    def total(self) -> int:
        return steps_of(self.config, len(self.data.train))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every batch of every epoch; the order depends on seed and epoch only, so methods are paired."""
        train, size = self.data.train, self.config.batch_size
        for epoch in range(self.config.epochs):
            order = torch.randperm(len(train), generator=generator("order", self.config.seed, epoch))
            for rows in order.split(size)[: max(1, len(train) // size)]:
                yield train.x[rows], train.y[rows]

    def update(self, x: Tensor, y: Tensor) -> None:
        """Take one step of SGD on the mean loss of a batch."""
        self.step += 1
        self.optimiser.zero_grad()
        loss = cross_entropy(self.model(x), y)
        _demand_finite(loss.item())
        loss.backward()
        self.optimiser.step()

    def measure(self) -> None:
        """Record losses, accuracy and self factors where this step is due for them; the last step always is."""
        if self._due(self.config.evaluate_every):
            train_loss, _ = evaluate(self.model, self.data.train)
            validation_loss, accuracy = evaluate(self.model, self.data.validation)
            _demand_finite(train_loss, validation_loss)
            self.points.append(Point(self.step, train_loss, validation_loss, accuracy))
        if self.config.probe_every and self._due(self.config.probe_every):
            probed = self.data.train.x[:PROBE_SAMPLES]
            spreads = measure_model(self.model, probed, self.step, self.probe_generator)
            _demand_finite(*(s.maximum for s in spreads))
            self.spreads += spreads

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.total


def steps_of(config: TrialConfig, samples: int) -> int:
    """Return the number of updates of a trial on that many training samples; a last partial batch is left out."""
    return config.epochs * max(1, samples // config.batch_size)


def _demand_finite(*values: float) -> None:
    if not all(math.isfinite(value) for value in values):
        raise _Diverged
