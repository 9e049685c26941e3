"""Every layer that can be verified, and its checks, family by family."""

from __future__ import annotations

from collections.abc import Callable

from verify.checks import attentions, convolutions, derivations, gradients, identities, properties, rows, twins
from verify.checks.cases import Subject
from verify.checks.combinations import conversions, factors, modules
from verify.checks.combinations import tasks as combinations
from verify.checks.record import Task


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
    """Return every subject of a layer: the uncorrected module, and those of the maps that cancel its divergence."""
    return _SUBJECTS[layer](layer)


def tasks_of(layer: str, derived: bool = True) -> list[Task]:
    """Return every check of one layer, in the order of the families; without ``derived`` none of its derivation.

    To list those, the layer must be derived and solved, which takes far longer than to list the others.
    """
    subjects = subjects_of(layer)
    found = derivations.tasks(layer, subjects) if derived else []
    for family in (identities, gradients, properties):
        found += [task for subject in subjects for task in family.tasks(subject)]
    found += [*combinations.of_rows(layer), *combinations.of_patches(layer), *combinations.of_attention(layer)]
    return [*found, *modules.tasks(layer), *factors.tasks(layer), *conversions.tasks(layer)]
