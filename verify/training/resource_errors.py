"""A machine that has run out: of memory, which is the trial's failure, or of disk, which is not."""

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
    """Return whether an error says that memory could not be had: Python's, torch's on a GPU or torch's on the CPU."""
    if isinstance(problem, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(problem, RuntimeError) and "can't allocate memory" in str(problem)


def out_of_memory(problem: BaseException, configs: Sequence[TrialConfig]) -> str:
    """Say in one line what was asked for, how large the trial is, and what would make it smaller.

    A trial is not trained in smaller pieces instead: sums over other pieces have other last bits.
    """
    config, asked = configs[0], _ASKED.search(str(problem))
    what = f" (asked for {asked[1]})" if asked else ""
    team = f", {len(configs)} seeds as one stack" if len(configs) > 1 else ""
    mend = "--seeds apart, " if team else ""
    return (
        f"out of memory{what} at width {config.width}, depth {config.depth}, batch_size {config.batch_size}, "
        f"{config.dtype}{team}; use fewer --workers, {mend}a smaller batch_size or a smaller width"
    )


def failure(problem: BaseException, configs: Sequence[TrialConfig]) -> str:
    """Return what is written down of a trial that raised."""
    if is_out_of_memory(problem):
        return out_of_memory(problem, configs)
    return f"{type(problem).__name__}: {problem}"


def is_disk_full(problem: BaseException) -> bool:
    """Return whether an error says that the disk has no room left."""
    return isinstance(problem, OSError) and problem.errno in _FULL


def disk_full(place: Path) -> UsageError:
    """Return the error that says that the disk of a place is full."""
    return UsageError(
        f"the disk that holds {str(place)!r} is full; free some space and start the same line again: what was saved is "
        "intact"
    )
