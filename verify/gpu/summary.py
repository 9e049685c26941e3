"""The summary of all stages: summary.json, and lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verify.bench.record import circumstances, write_json
from verify.gpu.part import FAIL, PASS, SKIPPED, Setting
from verify.gpu.stage_file import StageFile

SCHEMA = "affdiv.gpu/1"
FILE = "summary.json"
_MOST_NAMED = 10


def summary(files: Sequence[StageFile], setting: Setting, made: dict[str, str], seconds: float) -> dict[str, Any]:
    """Return the state of every stage and ``ok``: every part has a result, and none failed."""
    stages = {file.stage.name: _stage(file) for file in files}
    return {
        "schema": SCHEMA,
        **made,
        "ok": all(stage["complete"] and not stage["failed"] for stage in stages.values()),
        "seconds": round(seconds, 1),
        "data": setting.data or "built in",
        "stages": stages,
        "circumstances": circumstances(),
    }


def _stage(file: StageFile) -> dict[str, Any]:
    held = file.content()
    by = {
        status: {name: r.get("reason", "") for name, r in file.results.items() if r["status"] == status}
        for status in (FAIL, SKIPPED)
    }
    return {
        "complete": held["complete"],
        "passed": held["counts"].get(PASS, 0),
        "failed": by[FAIL],
        "skipped": by[SKIPPED],
        "left": len(held["left"]),
        "seconds": held["seconds"],
        "figures": held["figures"],
    }


def write_summary(found: dict[str, Any], setting: Setting) -> None:
    """Write the summary beside the stages' files."""
    write_json(Path(setting.folder) / FILE, found)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the summary as lines: one per stage, failures, reasons for skipped parts, how to continue."""
    where = "dry run on the CPU, nothing was measured on a GPU" if found["mode"] == "dry-run" else found["device"]
    told = [f"{where}; {found['seconds']:.0f} s"]
    for name, stage in found["stages"].items():
        counts = f"{stage['passed']} passed, {len(stage['failed'])} failed, {len(stage['skipped'])} skipped"
        told.append(f"{name:9s} {counts}, {stage['left']} left ({stage['seconds']:.0f} s)")
        failed = [f"  failed: {part}: {reason}" for part, reason in stage["failed"].items()]
        told += failed[:_MOST_NAMED]
        if len(failed) > _MOST_NAMED:
            told.append(f"  and {len(failed) - _MOST_NAMED} more, in {name}.json")
        told += [f"  skipped: {reason}" for reason in dict.fromkeys(stage["skipped"].values())]
    if any(stage["left"] for stage in found["stages"].values()):
        told.append("the time is up; the same command continues from here")
    return told
