"""Self factors as TensorBoard scalars, where TensorBoard is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from verify.diagnosis.record import Diagnosis, Spread


def summary_writer(folder: Path | str) -> Any:
    """Return torch's ``SummaryWriter``; raise UsageError, naming the folder, where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise UsageError(
            f"TensorBoard is needed to write {str(folder)!r} and is not installed: pip install tensorboard"
        ) from problem
    return SummaryWriter


class Scalars:
    """Writes into a folder of TensorBoard's; the folder is created. ``close`` must be called, or nothing may be there.

    Raises:
        UsageError: TensorBoard is not installed, a folder that cannot be written.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            self._writer: Any = summary_writer(folder)(str(folder))
        except OSError as problem:
            reason = problem.strerror or problem
            raise UsageError(
                f"TensorBoard cannot write into {str(folder)!r}: {reason}; name another folder"
            ) from problem

    def add(self, step: int, layers: Mapping[str, Spread]) -> None:
        """Write smallest, median and largest self factor of each layer at a step."""
        for name, spread in layers.items():
            for word in ("minimum", "median", "maximum"):
                self._writer.add_scalar(f"self factor/{name or 'root'}/{word}", getattr(spread, word), step)

    def close(self) -> None:
        """Write out what is held back."""
        self._writer.close()


def write_scalars(found: Diagnosis, folder: Path) -> None:
    """Write the history of a diagnosis, a step of it as a step."""
    scalars = Scalars(folder)
    for step in range(len(found.losses)):
        scalars.add(step, {m.name: m.history[step] for m in found.layers if step < len(m.history)})
    scalars.close()
