"""Loggers for the numbers of a reading: TensorBoard, Weights & Biases, MLflow, each only if installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from derive.errors import UsageError
from verify.diagnosis.record import Diagnosis


class Logger(Protocol):
    """Writes named numbers for a step."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write the numbers of one step."""

    def close(self) -> None:
        """Flush buffered numbers; a run opened by the user stays open."""


def summary_writer(folder: Path | str) -> Any:
    """Return torch's ``SummaryWriter``; raise UsageError, naming the folder, if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise UsageError(
            f"TensorBoard is needed to write {str(folder)!r} and is not installed: pip install tensorboard"
        ) from problem
    return SummaryWriter


class _TensorBoard:
    def __init__(self, folder: Path | str) -> None:
        try:
            self._writer: Any = summary_writer(folder)(str(folder))
        except OSError as problem:
            reason = problem.strerror or problem
            raise UsageError(
                f"TensorBoard cannot write into {str(folder)!r}: {reason}; name another folder"
            ) from problem

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._run.log({**numbers, "affdiv/step": step})  # without `step=`: the user's own step count goes on

    def close(self) -> None:
        """Leave the run open, because the user opened it."""


class _MLflow:
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._client.log_metric(self._run, _mlflow_name(name), value, step=step)

    def close(self) -> None:
        """Leave the run open, because the user opened it."""


def _mlflow_name(name: str) -> str:
    """Return a name with only the characters that MLflow accepts: letters, digits, spaces, and the signs ``_-./``."""
    return "".join(sign if sign.isalnum() or sign in "_-./ " else "_" for sign in name)


def tensorboard_logger(folder: Path | str) -> Logger:
    """Return a logger that writes TensorBoard files into a folder, which is created.

    Raises:
        UsageError: TensorBoard is not installed, or the folder cannot be written.
    """
    return _TensorBoard(folder)


def wandb_logger(run: Any = None) -> Logger:
    """Return a logger for a Weights & Biases run; None means the current one.

    Raises:
        UsageError: W&B is not installed, or no run is open.
    """
    if run is None:
        try:
            import wandb
        except ImportError as problem:
            raise UsageError("Weights & Biases is not installed: pip install wandb") from problem
        run = wandb.run
    if run is None:
        raise UsageError("no run of Weights & Biases is open; call wandb.init() first, or give a run")
    return _WandB(run)


def mlflow_logger(run_id: str | None = None) -> Logger:
    """Return a logger for an MLflow run; None means the active one.

    Raises:
        UsageError: MLflow is not installed, or no run is active.
    """
    try:
        import mlflow
    except ImportError as problem:
        raise UsageError("MLflow is not installed: pip install mlflow-skinny") from problem
    active: Any = mlflow.active_run()
    if run_id is None and active is None:
        raise UsageError("no run of MLflow is active; call mlflow.start_run() first, or give a run's id")
    return _MLflow(mlflow.tracking.MlflowClient(), run_id or active.info.run_id)


def write_scalars(found: Diagnosis, folder: Path) -> None:
    """Write the history of a diagnosis as TensorBoard scalars into a folder, one step per step of the diagnosis."""
    logger = tensorboard_logger(folder)
    for step in range(len(found.losses)):
        for layer in found.layers:
            if step < len(layer.history):
                s, name = layer.history[step], layer.name or "root"
                words = ("minimum", "median", "maximum")
                logger.log({f"self factor/{name}/{word}": getattr(s, word) for word in words}, step)
    logger.close()
