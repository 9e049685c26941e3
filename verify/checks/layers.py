"""All layers that can be verified, and their checks by family."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from verify.checks import attentions, convolutions, derivations, gradients, identities, properties, rows, twins
from verify.checks.cases import Subject
from verify.checks.combinations import conversions, factors, modules
from verify.checks.combinations import tasks as combinations
from verify.checks.record import FAMILIES, Task, Work


def _attention(layer: str) -> list[Subject]:
    return [*twins.subjects(layer), *attentions.subjects(layer)]


_SUBJECTS: dict[str, Callable[[str], list[Subject]]] = {
    "affine": rows.subjects,
    "linear": rows.subjects,
    **dict.fromkeys(convolutions.LAYERS, convolutions.subjects),
    "embedding": twins.subjects,
    "embedding-bag": twins.subjects,
    "attention": _attention,
    **dict.fromkeys(("attention-projection", "attention-value", "attention-output"), attentions.subjects),
    **{name: twins.subjects for name in twins.TWINS if name != "attention"},
}
LAYERS = tuple(_SUBJECTS)


def subjects_of(layer: str) -> list[Subject]:
    """Return every subject of a layer: the uncorrected module, and the modules of its cancelling maps."""
    return _SUBJECTS[layer](layer)


def tasks_of(layer: str, derived: bool = True) -> list[Task]:
    """Return every check of one layer, ordered by family; without ``derived`` those of its derivation are left out.

    Listing the derivation's checks needs the layer derived and solved, which takes far longer than listing the others.
    """
    found = [task for work in works_of([layer]) for task in (work.tasks() if derived else work.known)]
    return sorted(found, key=lambda task: FAMILIES.index(task.family))


def works_of(layers: Sequence[str]) -> list[Work]:
    """Return every check of some layers: one unit of work for each derivation, then one for each path."""
    subjects: dict[str, list[Subject]] = {layer: [] for layer in layers}
    for subject in (subject for layer in layers for subject in subjects_of(layer)):
        subjects.setdefault(subject.derived_with, []).append(subject)
    works = [_work(name if name in layers else "", some) for name, some in subjects.items()]
    return [*works, *(Work((task,)) for layer in layers for task in _paths(layer))]


def _work(layer: str, subjects: list[Subject]) -> Work:
    """Return the checks that share a derivation: of the layer, or, if ``layer`` is empty, of a variant."""
    families = (identities, gradients, properties)
    known = tuple(task for family in families for subject in subjects for task in family.tasks(subject))
    return Work(known, lambda: derivations.tasks(layer or subjects[0].layer, subjects, own=bool(layer)))


def _paths(layer: str) -> list[Task]:
    """Return the checks of a layer's paths, which need no derivation."""
    found = [*combinations.of_rows(layer), *combinations.of_patches(layer), *combinations.of_attention(layer)]
    return [*found, *modules.tasks(layer), *factors.tasks(layer), *conversions.tasks(layer)]
