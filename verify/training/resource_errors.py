"""Handle exhausted resources: out of memory, which is the trial's failure, and a full disk, which is not."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from derive.errors import UsageError
from verify.training.config import TrialConfig

_ASKED = re.compile(r"(?:you tried to allocate|Tried to allocate) ([\d.]+ ?\w+)")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def is_out_of_memory(problem: BaseException) -> bool:
    """Return whether an error means out of memory: Python's own, torch's on a GPU, or torch's on the CPU."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and "can't allocate memory" in str(problem)


def out_of_memory(problem: BaseException, configs: Sequence[TrialConfig]) -> str:
    """Return one line with the requested amount, the size of the trial, and how to make it smaller.

    Splitting the trial's batches instead would change the last bits of its sums.
    """
    config, asked = configs[0], _ASKED.search(str(problem))
    what = f" (requested {asked[1]})" if asked else ""
    team = f", {len(configs)} seeds as one stack" if len(configs) > 1 else ""
    mend = "--seeds apart, " if team else ""
    return (
        f"out of memory{what} at width {config.width}, depth {config.depth}, batch_size {config.batch_size}, "
        f"{config.dtype}{team}; use fewer --workers, {mend}a smaller batch_size or a smaller width"
    )


def failure(problem: BaseException, configs: Sequence[TrialConfig]) -> str:
    """Return the recorded error text of a trial that raised."""
    if is_out_of_memory(problem):
        return out_of_memory(problem, configs)
    return f"{type(problem).__name__}: {problem}"


def is_disk_full(problem: BaseException) -> bool:
    """Return whether an error means that the disk is full."""
    return isinstance(problem, OSError) and problem.errno in _FULL


def disk_full(place: Path) -> UsageError:
    """Return the error to raise when the disk of a path is full."""
    return UsageError(
        f"the disk that holds {str(place)!r} is full; free some space and give the same command again: what was saved "
        "is intact"
    )
