"""A callback for Lightning's Trainer that watches the layers of its module during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import Callback

from verify.diagnosis.loggers import Logger
from verify.diagnosis.watch import Reading, Watch


class WatchCallback(Callback):
    """Watches a Lightning module: ``Trainer(.., callbacks=[verify.lightning_callback(every=100)])``.

    The numbers also go to the Trainer's own loggers.

    Args:
        every: measure the first step and then every so many steps.
        report: called with each reading.
        loggers: receive the numbers of each reading.
        steps: whether to measure the optimiser's steps too; only with a single optimiser.

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
        super().__init__()
        self.every, self.report, self.loggers, self.steps = every, report, list(loggers), steps
        self.watch: Watch | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Install the hooks."""
        one = self.steps and len(trainer.optimizers) == 1
        loggers = [*self.loggers, *(_OfTrainer(logger) for logger in trainer.loggers)]
        self.watch = Watch(
            pl_module, self.every, self.report, optimizer=trainer.optimizers[0] if one else None, loggers=loggers
        )
        self.watch.__enter__()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Remove the hooks."""
        self._leave()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hooks."""
        self._leave()

    def _leave(self) -> None:
        watch = self.watch
        if watch is not None:
            watch.__exit__(None, None, None)


class _OfTrainer:
    """One of Lightning's loggers."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, numbers: Any, step: int) -> None:
        self._logger.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        """Do nothing: the Trainer closes its loggers."""
