"""Callbacks for trainers of other libraries, each imported on first use."""

from __future__ import annotations

from typing import Any

from derive.errors import UsageError


def trainer_callback(**settings: Any) -> Any:
    """Return a callback for the Trainer of transformers; ``settings`` are those of its ``WatchCallback``.

    Raises:
        UsageError: transformers is not installed.
    """
    try:
        from verify.diagnosis.trainer_callback import WatchCallback
    except ModuleNotFoundError as problem:
        raise UsageError(f"{problem.name} is not installed: pip install transformers accelerate") from problem
    return WatchCallback(**settings)


def lightning_callback(**settings: Any) -> Any:
    """Return a callback for Lightning's Trainer; ``settings`` are those of its ``WatchCallback``.

    Raises:
        UsageError: Lightning is not installed.
    """
    try:
        from verify.diagnosis.lightning_callback import WatchCallback
    except ModuleNotFoundError as problem:
        raise UsageError(f"{problem.name} is not installed: pip install lightning") from problem
    return WatchCallback(**settings)
