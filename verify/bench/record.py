"""The circumstances that every benchmark result records: device, versions, commit, command, time."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derive.export.files import write_text as write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PACKAGES = ("sympy", "torch", "triton", "numpy", "tensorgrad", "liger-kernel", "quack-kernels", "transformer-engine")


def circumstances() -> dict[str, Any]:
    """Return device, versions, commit and command of this process."""
    return {
        "device": {"machine": platform.machine(), "processor": _processor(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


@cache
def _commit() -> str:
    """Return the commit, with ``-dirty`` where tracked files differ from it, or ``unknown`` outside a checkout.

    The first call decides: a process that later writes results into the checkout still runs the code it started with.
    """
    try:
        options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "cwd": Path(__file__).parent}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("-dirty" if dirty else "")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a result atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def svg_text(figure: Figure, name: str) -> str:
    """Return a figure as reproducible SVG text: no date, and ids made from ``name``."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
