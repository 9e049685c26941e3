"""What a check is, what it gave, and the schema ``affdiv.verification/1`` in which both are reported."""

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
    """What a check gave."""

    PASS = "pass"
    FAIL = "fail"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Setting:
    """Where and how widely a check runs, and on which package (None: the project's own).

    ``seed`` is the user's; every check derives its own.
    """

    device: str = "cpu"
    seed: int = 0
    full: bool = False
    package: Path | None = None

    def generator(self, check: str) -> torch.Generator:
        """Return the randomness of the named check: the same alone as among others."""
        return torch.Generator().manual_seed(self.seed_of(check))

    def seed_of(self, check: str) -> int:
        """Return the seed that the named check draws from."""
        return int.from_bytes(hashlib.sha256(f"{self.seed}/{check}".encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Outcome:
    """A measured number against its bound, in words. A check without a number says ``ok`` itself."""

    reason: str
    measured: float | None = None
    bound: float | None = None
    ok: bool | None = None

    @property
    def status(self) -> Status:
        """Pass when the measured number is finite and within its bound, or when ``ok`` says so."""
        if self.measured is not None and self.bound is not None:
            return Status.PASS if self.measured <= self.bound else Status.FAIL
        return {True: Status.PASS, False: Status.FAIL, None: Status.SKIPPED}[self.ok]


@dataclass(frozen=True)
class Task:
    """A check that can be run: what it is about, which equation it tests, and how.

    ``uses_device`` is false for mathematics that runs on no device. ``word`` names the layer on the command line where
    its name does not; ``package`` gives the imported package that the check is about, where it has its own.
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
    """Tasks that one process does one after the other, for what they share is then worked out once.

    ``known`` are at hand; ``derived`` finds those that come first, for which a layer must be derived and solved.
    """

    known: tuple[Task, ...]
    derived: Callable[[], list[Task]] = list

    def tasks(self) -> list[Task]:
        """Return every task, in order."""
        return [*self.derived(), *self.known]

    def without(self, ids: Set[str]) -> Work:
        """Return the work without some of the tasks at hand."""
        return replace(self, known=tuple(task for task in self.known if task.id not in ids))


@dataclass(frozen=True)
class Check:
    """A check that has run."""

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
        """Whether it measures what nothing cancels."""
        return self.family == "identity" and "residual" in self.id.split("/")

    def to_json(self) -> dict[str, Any]:
        """Return the check as plain data; what is infinitely wrong has no number in JSON, its status says it."""
        finite = self.measured is not None and math.isfinite(self.measured)
        return {**vars(self), "status": self.status.value, "measured": self.measured if finite else None}


def options(setting: Setting) -> list[str]:
    """Return the setting as words of the command line."""
    words = ["--seed", str(setting.seed)]
    words += ["--device", setting.device] if setting.device != "cpu" else []
    words += ["--full"] if setting.full else []
    return [*words, "--package", str(setting.package)] if setting.package else words


def count(checks: list[Check]) -> dict[str, int]:
    """Return how many checks passed, failed and were skipped."""
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
