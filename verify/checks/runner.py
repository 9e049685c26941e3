"""Collect the tasks of the chosen layers and run them one by one; every result says how to repeat it."""

from __future__ import annotations

import difflib
import importlib.util
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from codegen.targets.base import KERNELS
from derive.errors import UsageError
from derive.sources import is_module
from verify.checks import target
from verify.checks.helper import NO_TRITON, Command, Copy, Helper, can_copy, interpreting, kernels, shared
from verify.checks.layer_files.package import SUFFIX, layer_file, of_layer_file, packaged
from verify.checks.layer_files.tasks import tasks_of as layer_tasks
from verify.checks.layers import LAYERS, tasks_of
from verify.checks.record import Check, Outcome, Setting, Status, Task, options
from verify.checks.target import concerning, verifying
from verify.threads import one_thread
from verify.triton_interpreter import mend

DEVICES = ("cpu", "cuda")
NO_CUDA = "no CUDA device on this machine (torch.cuda.is_available() is False)"
_KERNELS = tuple(target.name for target in KERNELS)
NEEDS_CPU = "the C++ kernels run on the CPU: `--device cpu`"
NEEDS_CUDA = "the CUDA kernels run on a CUDA device: `--device cuda`"


def tasks_for(layers: Iterable[str] = (), only: Iterable[str] = (), package: Path | None = None) -> list[Task]:
    """Return every task of the named layers (all layers when none is named), or those whose id is in ``only``.

    A name that ends in ``.toml`` is a file with a layer, ``MODULE:FACTORY`` makes a PyTorch module. ``package`` is the
    generated package to be verified; without names, what is verified is what it holds. Raises UsageError for a layer, a
    file, a module or an id that is not known, and for a package that was not generated from the file.
    """
    layers, wanted = list(dict.fromkeys(layers)), set(only)
    tasks = _tasks(layers, package, derived=not wanted or any(word.startswith("derivation/") for word in wanted))
    unknown = wanted - {task.id for task in tasks}
    if unknown:
        tasks = _tasks(layers, package, derived=True)
        first = sorted(unknown)[0]
        near = _near(first, [task.id for task in tasks])
        raise UsageError(f"no check {first!r}; `affdiv verify --list` prints the ids{near}")
    once = {task.id: task for task in reversed(tasks) if not wanted or task.id in wanted}
    return list(reversed(once.values()))


def _tasks(layers: list[str], package: Path | None, *, derived: bool) -> list[Task]:
    """Return every task of the named layers; those of the derivations of shipped layers only where ``derived``."""
    if of_layer_file(package):
        tasks = _of_package(layers, package)
    else:
        tasks = [task for layer in layers or LAYERS for task in _of_word(layer, package, derived)]
    _refuse_one_name_twice(tasks)
    return tasks


def _has_a_file(word: str) -> bool:
    """Return whether a word names a layer in a file or of a module, not a shipped one."""
    return word.endswith(SUFFIX) or is_module(word)


def _of_package(words: list[str], package: Path | None) -> list[Task]:
    """Return the checks of a package that holds the maps of one layer from a file."""
    assert package is not None
    if len(words) > 1 or (words and not _has_a_file(words[0])):
        raise UsageError(
            f"--package {str(package)!r} holds the maps of one layer from a file, and {words[-1]!r} was named; "
            "name that file alone, or leave --package out"
        )
    return layer_tasks(layer_file(words[0], package) if words else packaged(package))


def _of_word(word: str, package: Path | None, derived: bool) -> list[Task]:
    """Return the checks of a shipped layer, or of the layer in a file."""
    if _has_a_file(word):
        return layer_tasks(layer_file(word, package))
    if word not in LAYERS:
        known = ", ".join(LAYERS)
        raise UsageError(
            f"no checks for layer {word!r}; layers that can be verified: {known}, or a layer in a file "
            f"or of a module (FILE.toml, MODULE:FACTORY){_near(word, LAYERS)}"
        )
    return tasks_of(word, derived)


def _refuse_one_name_twice(tasks: Iterable[Task]) -> None:
    """Raise UsageError where two layers have one name, so that their checks could not be told apart."""
    words: dict[str, str] = {}
    for task in tasks:
        known = words.setdefault(task.layer, task.word)
        if known != task.word:
            first, second = known or "a shipped layer", task.word or "a shipped layer"
            raise UsageError(
                f"the layers of {first} and of {second} are both named {task.layer!r}; verify them one after the "
                "other, or rename one"
            )


def _near(word: str, known: Iterable[str]) -> str:
    """Return a question after the nearest of the known words, where one is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def run_checks(
    tasks: list[Task],
    setting: Setting,
    progress: Callable[[Check, int, int], None] = lambda check, done, total: None,
    *,
    copy: bool = False,
) -> list[Check]:
    """Run the tasks and return their checks in the tasks' order; ``progress`` hears of each as it ends.

    ``copy`` lets a second process be a copy of this one, where that is possible: only for a process in which torch has
    not shared work among threads yet, for a copy would wait for them for ever. Raises UsageError for a device that is
    not known, and for a package that cannot be verified.
    """
    if setting.device not in DEVICES:
        raise UsageError(f"device {setting.device!r} is not known; choose one of {', '.join(DEVICES)}")
    done: dict[str, Check] = {}

    def ended(check: Check) -> None:
        done[check.id] = check
        progress(check, len(done), len(tasks))

    if interpreting():
        mend()
    copied = copy and can_copy()
    given, either = kernels(tasks, setting), shared(tasks, copied=copied)
    elsewhere = {task.id for task in (*given, *either)}
    shipped = any(task.package is None for task in tasks)
    with verifying(setting.package if shipped else None), one_thread():
        second: Helper = (
            Copy(given, either, lambda task: run_task(task, setting))
            if copied and elsewhere
            else Command([*given, *either], setting)
        )
        try:
            for task in tasks:
                if task.id not in elsewhere:
                    ended(run_task(task, setting))
            for task in second.share():
                ended(run_task(task, setting))
            found = second.checks()
        finally:
            second.stop()
    for task in tasks:
        if task.id in found:
            result = found[task.id]
            ended(result if isinstance(result, Check) else _check(task, setting, result))
    return [done[task.id] for task in tasks]


def refuse_if_idle(tasks: Iterable[Task], checks: Iterable[Check]) -> None:
    """Raise UsageError where every check that computes on a device was skipped: then nothing that was asked for ran."""
    using = {task.id for task in tasks if task.uses_device}
    own = [check for check in checks if check.id in using]
    if own and all(check.status is Status.SKIPPED for check in own):
        raise UsageError(
            f"no check on a device ran: {own[0].reason}; leave out what asks for it, or run it where it can"
        )


def run_task(task: Task, setting: Setting) -> Check:
    """Run one task; an exception inside it is a failure with its text, never a crash of the whole run."""
    with concerning(task.package() if task.package and task.uses_device else None):
        return _check(task, setting, _skipped(task, setting) or _attempt(task, setting))


def _skipped(task: Task, setting: Setting) -> Outcome | None:
    """Return why a task cannot run here, if it cannot."""
    if not task.uses_device:
        return None
    if setting.device == "cuda" and not torch.cuda.is_available():
        return Outcome(NO_CUDA)
    if task.backend in _KERNELS and not target.holds_kernels(task.backend):
        return Outcome(f"the package has no such kernels; `--targets torch,{task.backend}` generates them")
    if task.backend == "cuda" and setting.device != "cuda":
        return Outcome(NEEDS_CUDA)
    if task.backend == "cpp" and (setting.device != "cpu" or _no_compiler()):
        return Outcome(_no_compiler() or NEEDS_CPU)
    if task.backend == "triton" and importlib.util.find_spec("triton") is None:
        return Outcome(NO_TRITON)
    return None


def _no_compiler() -> str:
    """Return why the C++ kernels cannot be compiled here; nothing if they can."""
    return str(target.part("kernels.cpp.runtime.compile").missing())


def _check(task: Task, setting: Setting, outcome: Outcome) -> Check:
    return Check(
        id=task.id,
        layer=task.layer,
        backend=task.backend,
        device=setting.device if task.uses_device else "none",
        dtype=task.dtype,
        equation=task.equation,
        status=outcome.status,
        measured=outcome.measured,
        bound=outcome.bound,
        reason=outcome.reason,
        seed=setting.seed_of(task.id),
        reproduce=reproduce(task, setting),
    )


def reproduce(task: Task, setting: Setting) -> str:
    """Return the command that repeats one check exactly."""
    words = [task.word or task.layer] if task.word or task.package is None else []
    return shlex.join(["affdiv", "verify", *words, "--only", task.id, *options(setting)])


def _attempt(task: Task, setting: Setting) -> Outcome:
    try:
        return task.run(setting)
    except Exception as problem:
        lines = str(problem).strip().splitlines() or [""]
        return Outcome(f"raised {type(problem).__name__}: {lines[0]}", ok=False)
