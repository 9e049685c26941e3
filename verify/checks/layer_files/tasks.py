"""Every check of a layer from a file: derivations, identities, gradients, paths, properties."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from verify.checks import derivations, gradients, identities
from verify.checks.layer_files import paths, properties
from verify.checks.layer_files.package import NO_LAYER, LayerFile
from verify.checks.layer_files.subjects import subjects
from verify.checks.record import Outcome, Setting, Task


def tasks_of(file: LayerFile) -> list[Task]:
    """Return the checks of a layer; each task carries the layer's command-line word and its package."""
    if file.layer is None:
        return [_placed(file, task) for task in (_files(file), _told(file, "formula", "none", NO_LAYER))]
    found = derivations.tasks_of_derivation(file.name, file.derivation)
    chosen = subjects(file)
    for family in (identities, gradients, properties, paths):
        found += [task for subject in chosen for task in family.tasks(subject)]
    return [_placed(file, task) for task in [*found, *_lacking(file)]]


def _placed(file: LayerFile, task: Task) -> Task:
    return replace(task, word=file.word, package=lambda: file.package, layer=file.name)


def _lacking(file: LayerFile) -> list[Task]:
    """Return a skipped check, with the generator's reason, for each target without kernels for the layer."""
    if file.refusal:
        return [_told(file, "package", "torch", file.refusal)]
    without = dict(file.manifest.get("without", {}))
    return [_told(file, f"kernels/{name}", name, f"{name}: {why['text']}") for name, why in without.items()]


def _told(file: LayerFile, what: str, backend: str, reason: str) -> Task:
    """Return a check that is skipped for a reason known in advance."""
    return Task(f"path/{file.name}/{what}", file.name, backend, "none", file.name, _skipped(reason), uses_device=False)


def _skipped(reason: str) -> Callable[[Setting], Outcome]:
    return lambda setting: Outcome(reason)


def _files(file: LayerFile) -> Task:
    """The check of a package without its layer: its files must match the manifest."""

    def run(setting: Setting) -> Outcome:
        """Compare every file with its digest in the manifest."""
        listed = file.manifest.get("files", {})
        wrong = [
            name
            for name, wanted in listed.items()
            if not (file.place / name).is_file()
            or hashlib.sha256((file.place / name).read_bytes()).hexdigest() != wanted
        ]
        if wrong:
            return Outcome(f"{wrong[0]} differs from the generated file", ok=False)
        return Outcome(f"{len(listed)} files equal those that were generated", ok=bool(listed))

    return Task(f"path/{file.name}/files", file.name, "none", "none", file.name, run, uses_device=False)
