"""Collect the tasks of the chosen layers and run them one by one; every result says how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

import torch

from derive.errors import UsageError
from verify.checks import derivations, gradients, identities, references
from verify.checks.record import Check, Outcome, Setting, Status, Task
from verify.checks.subjects import LAYERS, subjects_of
from verify.threads import one_thread

DEVICES = ("cpu", "cuda")
NO_CUDA = "no CUDA device on this machine (torch.cuda.is_available() is False)"


def tasks_for(layers: Iterable[str] = (), only: Iterable[str] = ()) -> list[Task]:
    """Return every task of the named layers (all layers when none is named), or those whose id is in ``only``.

    Raises UsageError for a layer or an id that is not known.
    """
    layers = list(dict.fromkeys(layers)) or list(LAYERS)
    for layer in layers:
        if layer not in LAYERS:
            raise UsageError(f"no checks for layer {layer!r}; layers that can be verified: {', '.join(LAYERS)}")
    tasks = [task for layer in layers for task in _tasks_of(layer)]
    wanted = list(only)
    unknown = set(wanted) - {task.id for task in tasks}
    if unknown:
        raise UsageError(f"no check {sorted(unknown)[0]!r}; `affdiv verify --list` prints the ids")
    return [task for task in tasks if not wanted or task.id in wanted]


def run_checks(
    tasks: list[Task], setting: Setting, progress: Callable[[Check, int, int], None] = lambda check, done, total: None
) -> list[Check]:
    """Run the tasks in order and return their checks; ``progress`` hears of each as it ends."""
    if setting.device not in DEVICES:
        raise UsageError(f"device {setting.device!r} is not known; choose one of {', '.join(DEVICES)}")
    checks: list[Check] = []
    with one_thread():
        for number, task in enumerate(tasks, start=1):
            checks.append(run_task(task, setting))
            progress(checks[-1], number, len(tasks))
    return checks


def run_task(task: Task, setting: Setting) -> Check:
    """Run one task; an exception inside it is a failure with its text, never a crash of the whole run."""
    device = setting.device if task.uses_device else "none"
    if device == "cuda" and not torch.cuda.is_available():
        outcome, status = Outcome(NO_CUDA), Status.SKIPPED
    else:
        outcome = _attempt(task, setting)
        status = outcome.status
    return Check(
        id=task.id,
        layer=task.layer,
        backend=task.backend,
        device=device,
        dtype=task.dtype,
        equation=task.equation,
        status=status,
        measured=outcome.measured,
        bound=outcome.bound,
        reason=outcome.reason,
        seed=setting.seed_of(task.id),
        reproduce=reproduce(task, setting),
    )


def reproduce(task: Task, setting: Setting) -> str:
    """Return the command that repeats one check exactly."""
    words = ["affdiv", "verify", task.layer, "--only", task.id, "--seed", str(setting.seed)]
    words += ["--device", setting.device] if setting.device != "cpu" else []
    words += ["--full"] if setting.full else []
    return shlex.join(words)


def _attempt(task: Task, setting: Setting) -> Outcome:
    try:
        return task.run(setting)
    except Exception as problem:
        lines = str(problem).strip().splitlines() or [""]
        return Outcome(f"raised {type(problem).__name__}: {lines[0]}", ok=False)


def _tasks_of(layer: str) -> list[Task]:
    tasks = derivations.tasks(layer)
    for subject in subjects_of(layer):
        for family in (identities, gradients, references):
            tasks += family.tasks(subject)
    return tasks
