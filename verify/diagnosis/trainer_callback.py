"""A callback for the Trainer of transformers that watches the layers of its model during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import TrainerCallback

from verify.diagnosis.loggers import Logger
from verify.diagnosis.watch import Reading, Watch


class WatchCallback(TrainerCallback):
    """Watches a Trainer's model: ``Trainer(.., callbacks=[verify.trainer_callback(every=100)])``.

    Args:
        every: measure the first step and then every so many steps.
        report: called with each reading.
        loggers: receive the numbers of each reading.
        steps: whether to measure the optimiser's steps too.

    Attributes:
        watch: the measurements, in order in ``watch.readings``; None before training.
    """

    def __init__(
        self,
        every: int = 100,
        report: Callable[[Reading], None] | None = None,
        loggers: Iterable[Logger] = (),
        steps: bool = True,
    ) -> None:
        self.every, self.report, self.loggers, self.steps = every, report, list(loggers), steps
        self.watch: Watch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **words: Any) -> None:
        """Install the hooks."""
        optimizer = getattr(words.get("optimizer"), "optimizer", words.get("optimizer"))  # Accelerate wraps it
        optimizer = optimizer if self.steps and isinstance(optimizer, torch.optim.Optimizer) else None
        self.watch = Watch(words["model"], self.every, self.report, optimizer=optimizer, loggers=self.loggers)
        self.watch.__enter__()

    def on_train_end(self, args: Any, state: Any, control: Any, **words: Any) -> None:
        """Remove the hooks."""
        if self.watch is not None:
            self.watch.__exit__(None, None, None)
