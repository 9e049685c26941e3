"""A callback for Lightning's Trainer: the layers of its module, watched while it trains."""

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
        every: measure the first step and each one so many steps later.
        report: called with each reading.
        loggers: get the numbers of each reading.
        steps: whether to look at the optimiser's steps as well; only where there is one optimiser.

    Attributes:
        watch: what was measured, ``watch.readings`` in order; None before training.
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
        """Put the hooks on."""
        one = self.steps and len(trainer.optimizers) == 1
        loggers = [*self.loggers, *(_OfTrainer(logger) for logger in trainer.loggers)]
        self.watch = Watch(
            pl_module, self.every, self.report, optimizer=trainer.optimizers[0] if one else None, loggers=loggers
        )
        self.watch.__enter__()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the hooks off."""
        self._leave()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the hooks off."""
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
        """Leave it to the Trainer."""
