"""Every step of a layer's derivation and of its cancelling maps, re-checked by exact evaluation (``derive.check``).

Generated maps may solve a variant of the layer: centred, without a bias, in groups. Its steps are checked beside the
layer's own; derivations of one name over two and over three axes of space are told apart by the ending of the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from derive.check import check_step
from derive.record import Derivation, Status, Step
from verify.checks.cases import Source, Subject
from verify.checks.record import Outcome, Setting, Task
from verify.derived import derived


def tasks(layer: str, subjects: Iterable[Subject] = ()) -> list[Task]:
    """Return one task for each step of the layer and of the maps that its subjects compute, none of them twice."""
    own = {step.id: step for step in steps_of(layer)}
    found = {f"derivation/{identity}": step for identity, step in own.items()}
    for subject in subjects:
        for step in _steps_of_source(subject.source()):
            if step.id not in own:
                found[subject.derivation_identity(step.id)] = step
    return [_task(layer, identity, step) for identity, step in found.items()]


def tasks_of_derivation(layer: str, derivation: Derivation) -> list[Task]:
    """Return one task for each step of a derivation and of its maps."""
    return [_task(layer, f"derivation/{step.id}", step) for step in _all_steps(derivation)]


def steps_of(layer: str) -> tuple[Step, ...]:
    """Return the steps of a layer's derivation and of every map that cancels its divergence."""
    return _all_steps(derived(layer))


def _all_steps(derivation: Derivation) -> tuple[Step, ...]:
    return (*derivation.steps, *(step for found in derivation.solutions for step in found.steps))


def _steps_of_source(source: Source) -> Iterator[Step]:
    """Yield the steps of a layer, and of the map that solves it where there is one."""
    yield from source.of_layer.steps
    if source.found is not None:
        yield from source.found.steps


def _task(layer: str, identity: str, step: Step) -> Task:
    def run(setting: Setting) -> Outcome:
        """Check the step."""
        verdict = check_step(step, setting.seed)
        ok = {Status.PROVED: True, Status.SAMPLED: True, Status.REFUTED: False}.get(verdict.status)
        return Outcome(f"{verdict.status.value}: {verdict.method}", ok=ok)

    return Task(identity, layer, "sympy", "exact", step.id, run, uses_device=False)
