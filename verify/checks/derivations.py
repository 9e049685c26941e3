"""Every step of a layer's derivation and of its cancelling maps, re-checked by exact evaluation (``derive.check``)."""

from __future__ import annotations

from derive.check import check_step
from derive.record import Status, Step
from verify.checks.record import Outcome, Setting, Task
from verify.derived import derived


def tasks(layer: str) -> list[Task]:
    """Return one task for each step, derivation first, then the maps; a step shared by two maps is checked once."""
    steps = {step.id: step for step in steps_of(layer)}
    return [_task(layer, step) for step in steps.values()]


def steps_of(layer: str) -> tuple[Step, ...]:
    """Return the steps of a layer's derivation and of every map that cancels its divergence."""
    derivation = derived(layer)
    return (*derivation.steps, *(step for found in derivation.solutions for step in found.steps))


def _task(layer: str, step: Step) -> Task:
    def run(setting: Setting) -> Outcome:
        verdict = check_step(step, setting.seed)
        ok = {Status.PROVED: True, Status.SAMPLED: True, Status.REFUTED: False}.get(verdict.status)
        return Outcome(f"{verdict.status.value}: {verdict.method}", ok=ok)

    return Task(f"derivation/{step.id}", layer, "sympy", "exact", step.id, run, uses_device=False)
