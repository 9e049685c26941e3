"""What a run of the whole chain gave, as data that the table, the JSON file and the report are all made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from derive.record import CancellingMap, Derivation
from verify.checks.record import Check, Setting, to_json
from verify.training.sweep import SweepResult

SCHEMA = "affdiv.run/1"


@dataclass(frozen=True)
class Stage:
    """One stage of the chain: its name, its result in a few words, whether it is good, and how long it took."""

    name: str
    result: str
    ok: bool
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """Everything a run produced. ``derivation`` carries its cancelling maps and the verdict of every step.

    ``environment`` names the versions and the machine; ``package`` is the manifest of the generated package.
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
        """Whether every stage is good."""
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
