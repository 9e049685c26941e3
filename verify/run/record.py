"""The results of a run of the whole chain, from which the table, the JSON file and the report are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from derive.record import CancellingMap, Derivation
from verify.checks.record import Check, Setting, to_json
from verify.training.sweep import SweepResult

SCHEMA = "affdiv.run/1"


@dataclass(frozen=True)
class Stage:
    """One stage of the chain: its name, its result in a few words, whether it passed, and its duration."""

    name: str
    result: str
    ok: bool
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """The results of a run. ``derivation`` includes its cancelling maps and the verdict of every step.

    ``environment`` gives the versions and the machine; ``package`` is the manifest of the generated package.
    """

    seed: int
    stages: tuple[Stage, ...]
    derivation: Derivation
    checks: tuple[Check, ...]
    sweep: SweepResult
    environment: dict[str, str]
    package: dict[str, Any]

    @property
    def maps(self) -> tuple[CancellingMap, ...]:
        """The maps that cancel the divergence."""
        return self.derivation.solutions

    @property
    def ok(self) -> bool:
        """Whether every stage passed."""
        return all(stage.ok for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Return the run in the schema ``affdiv.run/1``."""
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "seed": self.seed,
            "environment": self.environment,
            "package": self.package,
            "stages": [vars(stage) for stage in self.stages],
            "derivation": self.derivation.to_json(),
            "verification": to_json(list(self.checks), Setting(seed=self.seed)),
            "training": self.sweep.to_json(),
        }
