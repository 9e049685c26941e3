"""Check every step and every stated result of a layer's derivation and of its cancelling maps, by ``derive.check``.

Generated maps may solve a variant of the layer: centred, without a bias, or grouped. The variant is checked as well as
the layer itself. If derivations over two and over three spatial axes share a name, the end of the id distinguishes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from derive.check import check_claims, check_step, statements_of
from derive.record import CancellingMap, Derivation, Status, Verdict
from verify.checks.cases import Subject
from verify.checks.record import Outcome, Setting, Task
from verify.derived import derived


def tasks(layer: str, subjects: Iterable[Subject] = (), *, own: bool = True) -> list[Task]:
    """Return a task for each derivation step and statement of the layer and of the maps that its subjects compute.

    Without ``own`` the layer itself is left out, because the subjects compute maps of a variant.
    """
    parts = {part.name: part for part in _all_parts(derived(layer))} if own else {}
    found = {f"derivation/{name}": part for name, part in parts.items()}
    for subject in subjects:
        source = subject.source()
        for stated in (source.of_layer, source.found):
            for part in _parts(stated) if stated is not None else ():
                if part.name not in parts:
                    found[subject.derivation_identity(part.name)] = part
    return [_task(layer, identity, part) for identity, part in found.items()]


def tasks_of_derivation(layer: str, derivation: Derivation) -> list[Task]:
    """Return a task for each step and statement of a derivation and of its maps."""
    return [_task(layer, f"derivation/{part.name}", part) for part in _all_parts(derivation)]


@dataclass(frozen=True)
class _Part:
    """A step or a statement: its id, the equation it concerns, and its check for a given seed."""

    name: str
    equation: str
    check: Callable[[int], Verdict]


def _parts(stated: Derivation | CancellingMap) -> Iterator[_Part]:
    """Yield the steps of a derivation or of a map, then its stated results."""
    for step in stated.steps:
        yield _Part(step.id, step.id, partial(check_step, step))
    for statement in statements_of(stated):
        prefix = statement.name.partition("/result-")[0]
        yield _Part(
            statement.name, f"{prefix}/{statement.step or 'self-factor'}", partial(_claimed, stated, statement.name)
        )


def _all_parts(derivation: Derivation) -> Iterator[_Part]:
    for stated in (derivation, *derivation.solutions):
        yield from _parts(stated)


def _claimed(stated: Derivation | CancellingMap, name: str, seed: int) -> Verdict:
    return next(claim.verdict for claim in check_claims(stated, seed) if claim.id == name)


def _task(layer: str, identity: str, part: _Part) -> Task:
    def run(setting: Setting) -> Outcome:
        """Check the step or the statement."""
        verdict = part.check(setting.seed)
        ok = {Status.PROVED: True, Status.SAMPLED: True, Status.REFUTED: False}.get(verdict.status)
        return Outcome(f"{verdict.status.value}: {verdict.method}", ok=ok)

    return Task(identity, layer, "sympy", "exact", part.equation, run, uses_device=False)
