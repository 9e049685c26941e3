"""Your own hypotheses in an experiment file, declared before the run and judged like H1 to H9.

    [[hypotheses]]
    name = "wide"                            # its name in verdicts
    statement = "In wide networks, ..."      # for the reader; by default composed from the other keys
    group = { method = "affine-like", width = 500 }
    against = { method = "batch-norm", width = 500 }
    metric = "test_accuracy"                 # or "test_loss"
    direction = "higher"                     # or "lower", "same": group compared with against
    margin = 0.005                           # higher or lower by more than this (default 0); the same within it

``group`` and ``against`` give the same settings, with at least one different value. Runs that agree in everything else
are paired, each setting at its best rate. A negative margin turns "higher" into "lower by at most that much".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from derive.errors import UsageError
from verify.training.config import TrialConfig

METRICS = ("test_accuracy", "test_loss")
HIGHER, LOWER, SAME = "higher", "lower", "same"
DIRECTIONS = (HIGHER, LOWER, SAME)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_OURS = re.compile(r"[HC][0-9]+")
_NEEDED = ("name", "group", "against", "metric", "direction")
_KEYS = ("name", "statement", *_NEEDED[1:], "margin")
_NO_GROUPS = ("learning_rate", "seed")  # the rate is chosen for each setting, and runs are paired by seed
_SETTINGS = tuple(f.name for f in fields(TrialConfig) if f.name not in _NO_GROUPS)


@dataclass(frozen=True)
class Hypothesis:
    """One declared hypothesis: ``metric`` of ``group`` is higher than, lower than or the same as that of ``against``.

    ``margin`` is in the unit of the metric: a share from 0 to 1, or nats.
    """

    name: str
    group: tuple[tuple[str, Any], ...]
    against: tuple[tuple[str, Any], ...]
    metric: str
    direction: str
    margin: float
    said: str = ""

    @property
    def statement(self) -> str:
        """The claim in words."""
        if self.said:
            return self.said
        ours, theirs, metric = _words(self.group), _words(self.against), self.metric.replace("_", " ")
        if self.direction == SAME:
            return f"The {metric} of {ours} and of {theirs} is the same within {self.margin:g}."
        by = f" by more than {self.margin:g}" if self.margin > 0 else ""
        if self.margin < 0:
            other = LOWER if self.direction == HIGHER else HIGHER
            return f"The {metric} of {ours} is {other} than that of {theirs} by less than {-self.margin:g}, if at all."
        return f"The {metric} of {ours} is {self.direction} than that of {theirs}{by}."


def read(given: Any, trials: Sequence[TrialConfig], error: Callable[[str], UsageError]) -> tuple[Hypothesis, ...]:
    """Return the hypotheses in a file's ``hypotheses``, each checked against the trials that test it.

    ``error`` turns a message into an exception that names the file. It is raised for anything but tables of the known
    keys with valid values.
    """
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise error('these are not tables; write [[hypotheses]] and, below it, lines such as name = "wide"')
    found: list[Hypothesis] = []
    for number, table in enumerate(given, 1):
        one = _one(table, trials, lambda text, k=number: error(f"number {k}: {text}"))  # type: ignore[misc]
        if one.name in (other.name for other in found):
            raise error(f"number {number}: the name {one.name!r} is used twice; give each hypothesis its own name")
        found.append(one)
    return tuple(found)


def _one(table: dict[str, Any], trials: Sequence[TrialConfig], error: Callable[[str], UsageError]) -> Hypothesis:
    unknown = next((key for key in table if key not in _KEYS), None)
    if unknown is not None:
        raise error(f"{unknown!r} is not known; the keys are {', '.join(_KEYS)}")
    missing = next((key for key in _NEEDED if key not in table), None)
    if missing is not None:
        raise error(f"{missing!r} is missing; the keys are {', '.join(_KEYS)}")
    name, said = table["name"], table.get("statement", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or _OURS.fullmatch(name):
        raise error(
            f"{name!r} is not a valid name; use letters, digits, - and _, a letter first, and no name of ours (H1, C1)"
        )
    if not isinstance(said, str):
        raise error(f'the statement {said!r} is not text; write statement = "..."')
    for key, known in (("metric", METRICS), ("direction", DIRECTIONS)):
        if table[key] not in known:
            raise error(f"the {key} {table[key]!r} is not known; choose one of {', '.join(known)}")
    margin = table.get("margin", 0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise error(f"the margin {margin!r} is not a number; give one in the unit of {table['metric']}")
    if table["direction"] == SAME and margin <= 0:
        raise error(f"the margin {margin!r} leaves no range for 'same'; give a number above 0")
    group, against = (_group(key, table[key], trials, error) for key in ("group", "against"))
    if {k for k, _ in group} != {k for k, _ in against} or group == against:
        raise error(
            f"group and against must give the same settings with different values; they give {_words(group)} and "
            f"{_words(against)}"
        )
    return Hypothesis(name, group, against, table["metric"], table["direction"], float(margin), said)


def _group(
    key: str, given: Any, trials: Sequence[TrialConfig], error: Callable[[str], UsageError]
) -> tuple[tuple[str, Any], ...]:
    """Return the settings of a group, sorted by name; each must be one that trials have."""
    if not isinstance(given, dict) or not given:
        raise error(f'{key} is {given!r}; write a table such as {{ method = "affine-like" }}')
    for name, value in given.items():
        if name not in _SETTINGS:
            raise error(f"{key}: {name!r} is not a setting that distinguishes groups; these are {', '.join(_SETTINGS)}")
        there = sorted({getattr(trial, name) for trial in trials}, key=str)
        if value not in there:
            raise error(f"{key}: no trial has {name} = {value!r}; there are {', '.join(map(repr, there))}")
    return tuple(sorted(given.items()))


def _words(group: Sequence[tuple[str, Any]]) -> str:
    """Return a group in words: the method's name, and other settings with their names."""
    return ", ".join(str(value) if name == "method" else f"{name} {value}" for name, value in group)
