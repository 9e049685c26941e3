"""Check every value of a table of trials, so that only valid exports are judged.

    one value     its type and range, by its column
    one line      valid settings of a trial, and an outcome that agrees with its metrics
    all lines     no trial twice, by id or by settings

Limits: 1,000,000 lines, 10,000 characters a value; a file is refused from 256 MiB on (CSV) or 1 GiB unpacked (Parquet).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from verify.training.config import TrialConfig
from verify.training.experiment import SETTINGS
from verify.training.export import SCALE
from verify.training.rates import Trial
from verify.training.store import STATES

MOST_LINES = 1_000_000
LONGEST_VALUE = 10_000
LARGEST_FILE, LARGEST_UNPACKED = 2**28, 2**30

_ACCURACIES = ("validation_accuracy", "test_accuracy", "best_validation_accuracy")
_LOSSES = ("train_loss", "validation_loss", "test_loss")
_ERRORS = (
    "largest_self_factor_variation",
    "largest_identity_error",
    "largest_identity_error_float64",
    "largest_identity_error_over_bound",
)
_OUTCOMES = ("finished", "diverged")
_AT_THE_END = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss")


def _between(low: float, high: float, says: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: low <= value <= high, says


def _one_of(known: Sequence[str]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in known, f"one of {', '.join(known)}"


_POSITIVE = (lambda value: 0 < value < math.inf, "a positive finite number")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "trial": (lambda value: value.isprintable() and "," not in value, "a name without control characters"),
    "state": _one_of(STATES),
    "outcome": _one_of(_OUTCOMES),
    "diverged_at": _between(0, 10**18, "a step"),
    "largest_self_factor_ratio": _between(1.0, math.inf, "a number of at least 1"),
    **dict.fromkeys(SCALE, _POSITIVE),
    **dict.fromkeys(_ACCURACIES, _between(0.0, 1.0, "a share from 0 to 1")),
    **dict.fromkeys(_LOSSES, _between(0.0, 1.7e308, "a finite number of at least 0")),
    **dict.fromkeys(_ERRORS, _between(0.0, math.inf, "a number of at least 0")),
    **dict.fromkeys(("smallest_self_share", "mean_self_share"), _between(-1e308, 1e308, "a finite number")),
}


class Place:
    """The position of an error in a table; ``rows`` are the line numbers in the file."""

    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        self.path, self.rows = path, rows

    def error(self, line: int, column: str, problem: str) -> UsageError:
        """Return the error that names file, row and column."""
        return UsageError(f"{self.path}:{self.rows[line]}: column {column!r}: {problem}; export the table again")


def check_table(path: Path, lines: Sequence[Trial], rows: Sequence[int]) -> None:
    """Raise UsageError, with file, row and column, for the first value that cannot come from an export."""
    place = Place(path, rows)
    ids: dict[str, int] = {}
    settings: dict[TrialConfig, int] = {}
    for number, line in enumerate(lines):
        _check_values(place, number, line)
        config = _config(place, number, line)
        _check_outcome(place, number, line)
        first = ids.setdefault(line["trial"], number)
        if first != number:
            raise place.error(number, "trial", f"repeats the trial of row {rows[first]}")
        first = settings.setdefault(config, number)
        if first != number:
            raise place.error(number, "seed", f"repeats all settings of row {rows[first]}")


def _check_values(place: Place, number: int, line: Trial) -> None:
    for column, value in line.items():
        if value is None:
            continue
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            raise place.error(number, column, f"{len(value)} characters exceed the limit of {LONGEST_VALUE}")
        if isinstance(value, float) and math.isnan(value):
            raise place.error(number, column, "nan is not a number")
        holds, says = _RULES.get(column, (lambda value: True, ""))
        if not holds(value):
            raise place.error(number, column, f"{value!r} is not {says}")


def _config(place: Place, number: int, line: Trial) -> TrialConfig:
    """Return the settings of a line, checked by ``TrialConfig``."""
    if not line["trial"]:
        raise place.error(number, "trial", "the name is missing")
    for column in ("method", "learning_rate", "seed"):
        if line[column] is None:
            raise place.error(number, column, "the value is missing")
    try:
        return TrialConfig(**{name: line[name] for name in SETTINGS})
    except UsageError as problem:
        column, _, rest = str(problem).partition(" ")
        shown = column if column in SETTINGS else "method"
        raise place.error(number, shown, rest.removeprefix("= ") if column in SETTINGS else str(problem)) from None


def _check_outcome(place: Place, number: int, line: Trial) -> None:
    """Raise UsageError for a finished run without final metrics, or an unfinished one with them."""
    outcome, diverged_at = line["outcome"], line["diverged_at"]
    if (outcome == "diverged") != (diverged_at is not None):
        raise place.error(number, "diverged_at", f"{diverged_at!r} does not fit the outcome {outcome!r}")
    for column in _AT_THE_END:
        if (line[column] is not None) != (outcome == "finished"):
            said = f"{line[column]!r}" if line[column] is not None else "no value"
            raise place.error(number, column, f"{said} does not fit the outcome {outcome!r}")
