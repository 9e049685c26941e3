"""Gather the document's content: derivations computed and checked now, checks, and the tables of a results folder."""

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
    """The content of the document.

    ``checks`` are those of ``affdiv verify --json``, ``speed`` the runs of ``affdiv bench`` by file name.
    """

    chapters: Sequence[Chapter]
    checks: Sequence[Mapping[str, Any]]
    speed: Mapping[str, Sequence[Run]]
    sources: Sequence[Source]
    entries: Sequence[Entry]


def results_folder(named: Path | None) -> Path:
    """Return the folder of committed tables: the named one, or the default in the working folder or the checkout.

    Raises:
        UsageError: there is no such folder.
    """
    if named is not None:
        if not named.is_dir():
            raise UsageError(f"--results {str(named)!r} is not a folder; name a folder of experiment tables")
        return named
    places = (RESULTS, Path(__file__).resolve().parents[2] / RESULTS)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise UsageError(
            f"there is no folder {str(RESULTS)!r} here; run this in a checkout of the project, or name one with "
            "--results"
        )
    return found


def read_speed(folder: Path) -> dict[str, Sequence[Run]]:
    """Return the runs of each speed file in the folder; UsageError for an invalid file."""
    return {path.name: _member(path, "runs", "affdiv bench -o FILE") for path in sorted(folder.glob(SPEED))}


def read_checks(path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the checks in a file written by ``affdiv verify --json``; UsageError for any other file."""
    checks = _member(path, "checks", "affdiv verify --json > FILE", SCHEMA)
    keys = {"id", "layer", "backend", "dtype", "status", "measured", "bound", "reason"}
    if not all(isinstance(check, dict) and keys <= check.keys() for check in checks):
        raise UsageError(
            f"{str(path)!r} holds checks without {', '.join(sorted(keys))}; write it again with affdiv verify --json"
        )
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
