"""Which generated GPU kernels were verified on a GPU: the digests of their sources, compared with those of a record.

``python -m verify.gpu -o DIR`` writes the record; put it into this folder. A kernel counts as verified only if its
source, and the sources shared within its target, are those that ran.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from derive.errors import UsageError

SCHEMA = "affdiv.gpu-verified/1"
RECORD = Path(__file__).with_name("gpu-verified.json")  # inside the package, so that an installed copy has it too
UNVERIFIED = "unverified on a GPU"
_OTHER = ("__init__.py", "functional.py")  # files in the folder of a target that hold no kernel
_FOLDER = "kernels"
_WIDTH = 60


def kernel_digests(files: Mapping[str, str]) -> dict[str, str]:
    """Return the digest of each file of kernels, shared files included, from the SHA-256 of every file of a package."""
    found = {}
    for name in sorted(files):
        target = _target(name)
        if target:
            shared = [n for n in sorted(files) if n.startswith(f"{_FOLDER}/{target}/runtime/") and _computes(n)]
            parts = [files[n] for n in (name, *shared)]
            found[name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return found


def _target(name: str) -> str:
    """Return the target whose kernels a file holds, or an empty string."""
    folder, _, file = name.rpartition("/")
    if folder == f"{_FOLDER}/cuda" and file.endswith(".cu"):
        return "cuda"
    return "triton" if folder == f"{_FOLDER}/triton" and file.endswith(".py") and file not in _OTHER else ""


def _computes(name: str) -> bool:
    """Return whether a file shared by a target's kernels is part of the code that runs on the device."""
    return name.endswith(".cuh") or ("/triton/" in name and not name.endswith("/__init__.py"))


def kernel_rows(files: Mapping[str, str], runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per file of kernels: its name, its digest, and the recorded runs in which this source passed."""
    runs = list(runs)
    return [
        {"file": name, "digest": digest, "verified": [_summary(r, name) for r in runs if _passed(r, name, digest)]}
        for name, digest in kernel_digests(files).items()
    ]


def _passed(run: Mapping[str, Any], name: str, digest: str) -> bool:
    return run["kernels"].get(name, {}).get("digest") == digest


def _summary(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: run[key] for key in ("device", "versions", "commit")} | {"errors": run["kernels"][name]["errors"]}


def recorded_runs(path: Path = RECORD) -> list[dict[str, Any]]:
    """Return the runs of a record, none if there is no file; raise ``UsageError`` for a file that is not a record."""
    if not path.is_file():
        return []
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["schema"] == SCHEMA and all(_is_run(run) for run in held["runs"]):
            return list(held["runs"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UsageError(f"{str(path)!r} is not a record of kernels verified on a GPU; delete it, or write a new one")


def _is_run(run: Mapping[str, Any]) -> bool:
    kernels = run["kernels"].values()
    told = all(isinstance(run[key], str) for key in ("device", "commit")) and isinstance(run["versions"], dict)
    return told and all(isinstance(k["digest"], str) and isinstance(k["errors"], dict) for k in kernels)


def kernel_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the table of kernels for a terminal: one line per file, none without kernels."""
    lines = [f"{row['file'].removeprefix(_FOLDER + '/'):<{_WIDTH}}{_status(row['verified'])}" for row in rows]
    return ["", f"{'kernels':<{_WIDTH}}verified", "", *lines] if lines else []


def _status(verified: list[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(run["device"] for run in verified)) or UNVERIFIED
