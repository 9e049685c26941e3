"""The record of kernels that pass on a GPU, with device and errors; ``affdiv layers`` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from derive.export.kernels import RECORD, SCHEMA, recorded_runs
from verify.bench.record import circumstances, write_json
from verify.gpu.part import Setting


def write(found: Mapping[str, Mapping[str, Any]], setting: Setting) -> None:
    """Write the project's record, with this run's passing kernels added, into the results folder."""
    import torch

    run = run_of(found, torch.cuda.get_device_name())
    write_json(Path(setting.folder) / RECORD.name, with_run(recorded_runs(), run))


def run_of(found: Mapping[str, Mapping[str, Any]], device: str) -> dict[str, Any]:
    """Return the entry of this run on a device: the passing kernels, each with the digest of its source."""
    where = circumstances()
    held = {file: {"digest": k["digest"], "errors": k["errors"]} for file, k in found.items() if k["holds"]}
    return {
        "device": device,
        **{key: where[key] for key in ("versions", "commit", "command", "time")},
        "kernels": held,
    }


def with_run(runs: Iterable[dict[str, Any]], run: dict[str, Any]) -> dict[str, Any]:
    """Return the record with a run added; it replaces an earlier run of the same commit on the same device."""
    earlier = [r for r in runs if (r["device"], r["commit"]) != (run["device"], run["commit"])]
    return {"schema": SCHEMA, "runs": [*earlier, run]}
