"""What stages are made of: parts, each measured alone and known by its name, and where they are measured."""

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
    """Where and with what the parts run; ``device`` is cpu for a dry run, ``folder`` the absolute path of the results.

    ``data`` is a folder of images to train on, None for what is built in.
    """

    device: str
    folder: str
    data: str | None = None
    seed: int = 0

    @property
    def dry(self) -> bool:
        """Whether this is a dry run: no GPU takes part."""
        return self.device == "cpu"

    def to_json(self) -> str:
        """Return the setting as one line of JSON."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Part:
    """One thing to measure.

    ``request`` is what the stage's ``measure`` is given. Parts of one ``group`` run one after another in one process;
    an ``alone`` part has the machine for itself. A part is not started with less than ``least`` seconds left, and
    counts as hung after ``most``.
    """

    name: str
    request: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    alone: bool = False
    least: float = 0.0
    most: float = 120.0


def _nothing(figures: Mapping[str, Any], setting: Setting) -> None:
    """Keep nothing elsewhere."""


@dataclass(frozen=True)
class Stage:
    """A stage: its seconds on one GPU, the module that holds ``parts`` and ``measure``, and what it comes to.

    ``module`` has ``measure(request, setting, seconds) -> Result``, called in a worker; ``parts`` lists what is to be
    measured; ``conclude`` makes figures of all results so far; ``finish`` writes what is kept of them elsewhere.
    """

    name: str
    seconds: float
    module: str
    parts: Callable[[Setting], Sequence[Part]]
    conclude: Callable[[Mapping[str, Result], Setting], dict[str, Any]]
    finish: Callable[[Mapping[str, Any], Setting], None] = _nothing

    def path(self, setting: Setting) -> Path:
        """Return the file that holds the stage's results."""
        return Path(setting.folder) / f"{self.name}.json"


def nothing_more(results: Mapping[str, Result], setting: Setting) -> dict[str, Any]:
    """Conclude nothing beyond the results."""
    return {}
