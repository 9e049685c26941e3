"""The results file of a stage: the result of each part, the sources and the device; writes are atomic."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from verify.bench.record import circumstances, write_json
from verify.gpu.part import FAIL, Part, Result, Setting, Stage

SCHEMA = "affdiv.gpu-stage/1"
DRY_RUN, GPU = "dry-run", "gpu"
_WRITE_SECONDS = 1.0  # least time between two writes


def origin(setting: Setting) -> dict[str, str]:
    """Return the origin of results: mode, device, and digests of the generated sources."""
    from verify.package_sources import digests  # imports torch

    sources = json.dumps(digests(), sort_keys=True).encode()
    return {
        "mode": DRY_RUN if setting.dry else GPU,
        "device": "cpu" if setting.dry else _gpu(),
        "sources": hashlib.sha256(sources).hexdigest(),
    }


def _gpu() -> str:
    import torch

    return str(torch.cuda.get_device_name())


class StageFile:
    """The results of a stage, by part; read from the file if it exists.

    Raises:
        UsageError: the file holds something else, or results of other sources or another device.
    """

    def __init__(self, stage: Stage, setting: Setting, made: dict[str, str], again: bool = False) -> None:
        self.stage, self.setting, self._made = stage, setting, made
        self.path = stage.path(setting)
        held = _read(self.path, stage.name, made)
        self.results: dict[str, Result] = held.get("parts", {})
        if again:
            self.results = {name: r for name, r in self.results.items() if r["status"] != FAIL}
        self.seconds: float = held.get("seconds", 0.0)
        self.parts: Sequence[Part] = stage.parts(setting)
        self._lock, self._written = threading.Lock(), 0.0

    @property
    def left(self) -> list[Part]:
        """The parts without a result."""
        return [part for part in self.parts if part.name not in self.results]

    def add(self, part: Part, result: Result) -> None:
        """Record the result of a part; thread-safe."""
        with self._lock:
            self.results[part.name] = result
            if time.monotonic() - self._written >= _WRITE_SECONDS:
                self._write()

    def close(self, seconds: float) -> dict[str, Any]:
        """Add the seconds that the stage took, write the file and return its content.

        Raises UsageError if the generated sources have changed since the run began.
        """
        if origin(self.setting) != self._made:
            raise UsageError(
                f"the generated sources changed during the run; move {str(self.path)!r} away and start again"
            )
        with self._lock:
            self.seconds += seconds
            held = self._write()
        self.stage.finish(held["figures"], self.setting)
        return held

    def _write(self) -> dict[str, Any]:
        self._written = time.monotonic()
        held = self.content()
        write_json(self.path, held)
        return held

    def content(self) -> dict[str, Any]:
        """Return the content of the file."""
        left = [part.name for part in self.left]
        return {
            "schema": SCHEMA,
            "stage": self.stage.name,
            **self._made,
            "complete": not left,
            "left": left,
            "counts": dict(Counter(result["status"] for result in self.results.values())),
            "seconds": round(self.seconds, 1),
            "figures": self.stage.conclude(self.results, self.setting),
            "circumstances": circumstances(),
            "parts": self.results,
        }


def _read(path: Path, stage: str, made: dict[str, str]) -> dict[str, Any]:
    """Return the content of a file, empty if it does not exist."""
    if not path.exists():
        return {}
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if held["schema"] != SCHEMA or held["stage"] != stage or not _are_results(held["parts"]):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{str(path)!r} holds no results of this program; choose another folder with -o") from None
    other = [key for key in made if held.get(key) != made[key]]
    if other:
        raise UsageError(
            f"{str(path)!r} was made with another {' and '.join(other)} ({held.get(other[0])!s:.40}); choose another "
            "folder with -o, or move it away"
        )
    return held


def _are_results(parts: Any) -> bool:
    return isinstance(parts, dict) and all(isinstance(r, dict) and isinstance(r["status"], str) for r in parts.values())
