"""Tasks, checks (their results), and the schema ``affdiv.verification/1`` that reports them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

SCHEMA = "affdiv.verification/1"
FAMILIES = ("derivation", "identity", "gradient", "property", "path")


class Status(StrEnum):
    """The result of a check."""

    PASS = "pass"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Setting:
    """How checks run: device, extent, seed, and the package under verification (None: the project's own).

    ``seed`` is the user's; every check derives its own seed from it.
    """

    device: str = "cpu"
    seed: int = 0
    full: bool = False
    package: Path | None = None

    def generator(self, check: str) -> torch.Generator:
        """Return the random generator of the named check, independent of which other checks run."""
        return torch.Generator().manual_seed(self.seed_of(check))

    def seed_of(self, check: str) -> int:
        """Return the seed of the named check."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{check}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check: a description, with a measured number and its bound, or ``ok`` if there is no number."""

    reason: str
    measured: float | None = None
    bound: float | None = None
    ok: bool | None = None

    @property
    def status(self) -> Status:
        """Pass if the measured number is finite and within its bound, or if ``ok`` is true."""
        if self.measured is not None and self.bound is not None:
            return Status.PASS if self.measured <= self.bound else Status.FAIL
        return {True: Status.PASS, False: Status.FAIL, None: Status.SKIPPED}[self.ok]


@dataclass(frozen=True)
class Task:
    """A check that can be run: its layer, backend and dtype, the equation that it tests, and its function.

    ``uses_device`` is false for mathematics that needs no device. ``word`` names the layer on the command line if its
    name does not; ``package`` returns the imported package under check if it is not the shared one.
    """

    id: str
    layer: str
    backend: str
    dtype: str
    equation: str
    run: Callable[[Setting], Outcome]
    uses_device: bool = True
    word: str = ""
    package: Callable[[], ModuleType] | None = None

    @property
    def family(self) -> str:
        """The first part of the id, one of ``FAMILIES``."""
        return self.id.split("/", 1)[0]


@dataclass(frozen=True)
class Work:
    """Tasks that one process runs one after another, so that work they share is done once.

    ``known`` are listed; ``derived`` returns the tasks to run before them, which need a layer derived and solved.
    """

    known: tuple[Task, ...]
    derived: Callable[[], list[Task]] = list

    def tasks(self) -> list[Task]:
        """Return every task, in order."""
        return [*self.derived(), *self.known]

    def without(self, ids: Set[str]) -> Work:
        """Return the work without the ``known`` tasks of the given ids."""
        return replace(self, known=tuple(task for task in self.known if task.id not in ids))


@dataclass(frozen=True)
class Check:
    """The result of a task that has run."""

    id: str
    layer: str
    backend: str
    device: str
    dtype: str
    equation: str
    status: Status
    measured: float | None
    bound: float | None
    reason: str
    seed: int
    reproduce: str

    @property
    def family(self) -> str:
        """The first part of the id, one of ``FAMILIES``."""
        return self.id.split("/", 1)[0]

    @property
    def is_residual(self) -> bool:
        """Whether it measures a factor that does not cancel."""
        return self.family == "identity" and "residual" in self.id.split("/")

    def to_json(self) -> dict[str, Any]:
        """Return the check as plain data; an infinite error becomes null, since JSON has no infinity."""
        finite = self.measured is not None and math.isfinite(self.measured)
        return {**vars(self), "status": self.status.value, "measured": self.measured if finite else None}


def options(setting: Setting) -> list[str]:
    """Return the setting as command-line options."""
    words = ["--seed", str(setting.seed)]
    words += ["--device", setting.device] if setting.device != "cpu" else []
    words += ["--full"] if setting.full else []
    return [*words, "--package", str(setting.package)] if setting.package else words


def count(checks: list[Check]) -> dict[str, int]:
    """Return the numbers of passed, failed and skipped checks."""
    return {status.value: sum(check.status is status for check in checks) for status in Status}


def to_json(checks: list[Check], setting: Setting) -> dict[str, Any]:
    """Return the checks in the schema ``affdiv.verification/1``."""
    return {
        "schema": SCHEMA,
        "seed": setting.seed,
        "device": setting.device,
        "checks": [check.to_json() for check in checks],
        "summary": count(checks),
    }
