"""Stages and their parts (named units of measurement), and the setting in which they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PASS, FAIL, SKIPPED = "pass", "fail", "skipped"
Result = dict[str, Any]  # "status" is PASS, FAIL or SKIPPED, "reason" says why, the rest are figures


@dataclass(frozen=True)
class Setting:
    """The setting of a run; ``device`` is cpu for a dry run, ``folder`` the absolute path of the results.

    ``data`` is a folder of images to train on, None for the built-in data.
    """

    device: str
    folder: str
    data: str | None = None
    seed: int = 0

    @property
    def dry(self) -> bool:
        """Whether this is a dry run, without a GPU."""
        return self.device == "cpu"

    def to_json(self) -> str:
        """Return the setting as one line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Part:
    """One unit of measurement.

    ``request`` is passed to the stage's ``measure``. Parts of one ``group`` run one after another in one process; while
    an ``alone`` part runs, no other does. A part does not start with less than ``least`` seconds left, and counts as
    hung after ``most`` seconds.
    """

    name: str
    request: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    alone: bool = False
    least: float = 0.0
    most: float = 120.0


def _nothing(figures: Mapping[str, Any], setting: Setting) -> None:
    """Do nothing: the stage's own file is enough."""


@dataclass(frozen=True)
class Stage:
    """A stage: its seconds on one GPU, the module with ``parts`` and ``measure``, and its conclusion.

    ``module`` has ``measure(request, setting, seconds) -> Result``, called in a worker; ``parts`` lists the parts;
    ``conclude`` computes figures from all results so far; ``finish`` writes those that are also kept elsewhere.
    """

    name: str
    seconds: float
    module: str
    parts: Callable[[Setting], Sequence[Part]]
    conclude: Callable[[Mapping[str, Result], Setting], dict[str, Any]]
    finish: Callable[[Mapping[str, Any], Setting], None] = _nothing

    def path(self, setting: Setting) -> Path:
        """Return the path of the stage's results file."""
        return Path(setting.folder) / f"{self.name}.json"


def nothing_more(results: Mapping[str, Result], setting: Setting) -> dict[str, Any]:
    """Return no figures beyond the results."""
    return {}
