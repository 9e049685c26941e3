"""A file of benchmark results to which runs are appended, each with its machine, versions and source digest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from derive.errors import UsageError
from verify.bench.against import Compared
from verify.bench.growth import Growth
from verify.bench.layer_speed import LayerSpeed
from verify.bench.record import circumstances, write_json
from verify.bench.rows import SCHEMA, Speed
from verify.bench.suite import SuiteSpeed
from verify.files import check_folder
from verify.package_sources import digests


def described(speed: Speed | LayerSpeed | Compared | SuiteSpeed | Growth) -> dict[str, Any]:
    """Return a run as plain data, with its circumstances and the digests of all generated sources."""
    where = circumstances()
    where["device"].update(threads=torch.get_num_threads(), load_average=os.getloadavg())
    if speed.device == "cuda":
        where["device"]["gpu"] = torch.cuda.get_device_name()
    return {**speed.to_json(), "circumstances": {**where, "sources": digests()}}


def check_file(path: Path, schema: str = SCHEMA) -> None:
    """Raise UsageError unless runs can be appended to the file; call it before measuring."""
    check_folder(path.parent, (path.name,))
    _runs(path, schema)


def append(path: Path, run: dict[str, Any]) -> None:
    """Append a run to the ``runs`` of the file, atomically; all runs of a file have one schema."""
    schema = str(run["schema"])
    write_json(path, {"schema": schema, "runs": [*_runs(path, schema), run]})


def _runs(path: Path, schema: str) -> list[dict[str, Any]]:
    """Return the runs of a file, none if it does not exist; raise UsageError if it holds something else."""
    if not path.exists():
        return []
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["schema"] == schema and isinstance(held["runs"], list):
            return held["runs"]
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(
        f"{str(path)!r} exists and holds no benchmark results of this kind; name another file with --out, or move it"
    )
