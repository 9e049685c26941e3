"""What the document tells of: derivations made and checked now, checks, and the tables of a folder of results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from derive.export.outline import Chapter
from verify.checks.record import SCHEMA
from verify.claims.ledger import Entry
from verify.training.sources import Source

RESULTS = Path("paper_notes", "results")
SPEED = "speed-*.json"
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """All that the document tells.

    ``checks`` are those of ``affdiv verify --json``, ``speed`` the runs of ``affdiv bench`` by the name of their file.
    """

    chapters: Sequence[Chapter]
    checks: Sequence[Mapping[str, Any]]
    speed: Mapping[str, Sequence[Run]]
    sources: Sequence[Source]
    entries: Sequence[Entry]


def results_folder(named: Path | None) -> Path:
    """Return the folder of committed tables: the named one, or that of the working folder or of the checkout.

    Raises:
        UsageError: there is none.
    """
    if named is not None:
        if not named.is_dir():
            raise UsageError(f"--results {str(named)!r} is no folder; name one that holds tables of experiments")
        return named
    places = (RESULTS, Path(__file__).resolve().parents[2] / RESULTS)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise UsageError(
            f"no folder {str(RESULTS)!r} here; run this in a checkout of the project, or name a folder with --results"
        )
    return found


def read_speed(folder: Path) -> dict[str, Sequence[Run]]:
    """Return the runs of each file of speed in the folder; UsageError for one that is none."""
    return {path.name: _member(path, "runs", "affdiv bench -o FILE") for path in sorted(folder.glob(SPEED))}


def read_checks(path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the checks of a file that ``affdiv verify --json`` wrote; UsageError for any other file."""
    checks = _member(path, "checks", "affdiv verify --json > FILE", SCHEMA)
    keys = {"id", "layer", "backend", "dtype", "status", "measured", "bound", "reason"}
    if not all(isinstance(check, dict) and keys <= check.keys() for check in checks):
        raise UsageError(f"{str(path)!r} holds checks without {', '.join(sorted(keys))}; write it anew")
    return checks


def _member(path: Path, name: str, writer: str, schema: str = "") -> Sequence[Mapping[str, Any]]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(f"cannot read {str(path)!r}: {problem.strerror}; write it with {writer}") from None
    except ValueError:
        raise UsageError(f"{str(path)!r} is not JSON; write it with {writer}") from None
    if not isinstance(read, dict) or not isinstance(read.get(name), list) or schema not in ("", read.get("schema")):
        raise UsageError(f"{str(path)!r} holds no list {name!r}; write it with {writer}")
    return list(read[name])
