"""Collect the tasks of the chosen layers and run them one by one; every result includes the command to repeat it."""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from codegen.targets.base import KERNELS
from derive.errors import UsageError
from derive.sources import is_module
from verify.checks import target
from verify.checks.combinations.paths import COMPILED, INDUCTOR
from verify.checks.helper import (
    MANY_LAYERS,
    NO_TRITON,
    Command,
    Copy,
    Helper,
    can_copy,
    interpreting,
    kernels,
    shared,
)
from verify.checks.layer_files.package import SUFFIX, layer_file, of_layer_file, packaged
from verify.checks.layer_files.tasks import tasks_of as layer_tasks
from verify.checks.layers import LAYERS, tasks_of, works_of
from verify.checks.record import FAMILIES, Check, Outcome, Setting, Status, Task, Work, options
from verify.checks.target import concerning, verifying
from verify.threads import one_thread
from verify.triton_interpreter import mend

DEVICES = ("cpu", "cuda")
NO_CUDA = "no CUDA device on this machine (torch.cuda.is_available() is False)"
Progress = Callable[[Check, int, int], None]
_KERNELS = tuple(target.name for target in KERNELS)
NEEDS_CPU = "the C++ kernels run on the CPU; use `--device cpu`"
NEEDS_CUDA = "the CUDA kernels run on a CUDA device; use `--device cuda`"


def tasks_for(layers: Iterable[str] = (), only: Iterable[str] = (), package: Path | None = None) -> list[Task]:
    """Return the tasks of the named layers (all layers if none is named), or those whose ids are in ``only``.

    A name that ends in ``.toml`` is a layer file; ``MODULE:FACTORY`` makes a PyTorch module. ``package`` is the
    generated package to verify; without names, the layers that it contains are verified. Raises UsageError for an
    unknown layer, file, module or id, and for a package that was not generated from the file.
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
    """Return every task of the named layers; those of shipped layers' derivations only with ``derived``."""
    if of_layer_file(package):
        tasks = _of_package(layers, package)
    else:
        tasks = [task for layer in layers or LAYERS for task in _of_word(layer, package, derived)]
    _refuse_one_name_twice(tasks)
    return tasks


def _has_a_file(word: str) -> bool:
    """Return whether a word names a layer file or a module rather than a shipped layer."""
    return word.endswith(SUFFIX) or is_module(word)


def _of_package(words: list[str], package: Path | None) -> list[Task]:
    """Return the checks of a package generated from one layer file."""
    assert package is not None
    if len(words) > 1 or (words and not _has_a_file(words[0])):
        raise UsageError(
            f"--package {str(package)!r} was generated from one layer file, but {words[-1]!r} was named; "
            "name that file alone, or leave --package out"
        )
    return layer_tasks(layer_file(words[0], package) if words else packaged(package))


def _of_word(word: str, package: Path | None, derived: bool) -> list[Task]:
    """Return the checks of a shipped layer, or of the layer of a file or module."""
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
    """Raise UsageError if two layers share a name, because their checks would have the same ids."""
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
    """Return a suggestion of the closest known word, or an empty text if none is close."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def run_checks(
    tasks: list[Task],
    setting: Setting,
    progress: Progress = lambda check, done, total: None,
    *,
    copy: bool = False,
) -> list[Check]:
    """Run the tasks and return their checks in the same order; ``progress`` is called as each ends.

    ``copy`` allows the second process to be a fork of this one. Use it only if torch has not started threads in this
    process yet: a fork would wait for them for ever. Raises UsageError for an unknown device and for a package that
    cannot be verified.
    """
    copied = copy and can_copy()
    given, either = kernels(tasks, setting), shared(tasks, copied=copied)
    elsewhere = {task.id for task in (*given, *either)}
    own = [task for task in tasks if task.id not in elsewhere]

    def second() -> Helper:
        """Start the second process."""
        if copied and elsewhere:
            return Copy(given, [Work((task,)) for task in either], lambda task: run_task(task, setting))
        return Command([*given, *either], setting)

    shipped = any(task.package is None for task in tasks)
    done = _in_two(own, second, setting, setting.package if shipped else None, lambda c, n: progress(c, n, len(tasks)))
    return [done[task.id] for task in tasks]


def run_named(
    words: Sequence[str],
    only: Iterable[str],
    setting: Setting,
    progress: Progress = lambda check, done, total: None,
) -> list[Check]:
    """Run every check that ``tasks_for`` lists, and return them ordered by layer and family.

    If many shipped layers are named, a fork of this process derives and checks about half of them, so nothing is
    derived before the fork. The condition of ``run_checks`` with ``copy`` holds here too. Raises UsageError as both do.
    """
    layers, only = list(dict.fromkeys(words or LAYERS)), list(only)
    simple = not (only or of_layer_file(setting.package) or interpreting()) and set(layers) <= set(LAYERS)
    if not (simple and can_copy() and len(layers) >= MANY_LAYERS):
        return run_checks(tasks_for(words, only, setting.package), setting, progress, copy=True)
    works = works_of(layers)
    known = [task for work in works for task in work.known]
    given = kernels(known, setting)
    interpreted = {task.id for task in given}
    own = [task for task in known if task.id not in interpreted and _stays_here(task, setting)]
    apart = interpreted | {task.id for task in own}
    either = [work.without(apart) for work in works]

    def heard(check: Check, done: int) -> None:
        """Report progress; the total grows as derivations reveal their steps."""
        progress(check, done, max(len(known), done))

    run = partial(run_task, setting=setting)
    done = _in_two(own, lambda: Copy(given, either, run), setting, setting.package, heard)
    places = {task.id: number for number, task in enumerate(known)}

    def order(check: Check) -> tuple[int, int, int, str]:
        """Return a sort key independent of which process ran the check; derivation steps keep their order."""
        derived_from = check.equation.rpartition("/")[0]
        return layers.index(check.layer), FAMILIES.index(check.family), places.get(check.id, 0), derived_from

    return sorted(done.values(), key=order)


def _stays_here(task: Task, setting: Setting) -> bool:
    """Return whether a task must run in the first process: it uses torch.compile or a GPU.

    The compiler then starts only once, and neither it nor a GPU is used in the process that interprets Triton.
    """
    compiles = not {COMPILED, INDUCTOR}.isdisjoint(task.id.split("/"))
    return compiles or (setting.device != "cpu" and task.uses_device)


def _in_two(
    own: Iterable[Task],
    start: Callable[[], Helper],
    setting: Setting,
    package: Path | None,
    heard: Callable[[Check, int], None],
) -> dict[str, Check]:
    """Run own tasks here beside a second process, then a share of its tasks; return all checks by id."""
    if setting.device not in DEVICES:
        raise UsageError(f"device {setting.device!r} is not known; choose one of {', '.join(DEVICES)}")
    done: dict[str, Check] = {}

    def ended(check: Check) -> None:
        done[check.id] = check
        heard(check, len(done))

    if interpreting():
        mend()
    with verifying(package), one_thread():
        second = start()
        try:
            for task in itertools.chain(own, second.share()):
                ended(run_task(task, setting))
            found = second.checks()
        finally:
            second.stop()
    for result in found.values():
        ended(result if isinstance(result, Check) else _check(result.task, setting, result.outcome))
    return done


def refuse_if_idle(checks: Iterable[Check]) -> None:
    """Raise UsageError if every check that computes on a device was skipped, so that nothing requested ran."""
    own = [check for check in checks if check.device != "none"]
    if own and all(check.status is Status.SKIPPED for check in own):
        raise UsageError(
            f"no check on a device ran: {own[0].reason}; drop the option that requires it, or use another machine"
        )


def run_task(task: Task, setting: Setting) -> Check:
    """Run one task; an exception inside it becomes a failed check with its text and does not end the run."""
    with concerning(task.package() if task.package and task.uses_device else None):
        return _check(task, setting, _skipped(task, setting) or _attempt(task, setting))


def _skipped(task: Task, setting: Setting) -> Outcome | None:
    """Return the reason why a task cannot run here, or None if it can."""
    if not task.uses_device:
        return None
    if setting.device == "cuda" and not torch.cuda.is_available():
        return Outcome(NO_CUDA)
    if task.backend in _KERNELS and not target.holds_kernels(task.backend):
        return Outcome(
            f"the package has no {task.backend} kernels; generate them with "
            f"`affdiv generate --targets torch,{task.backend}`"
        )
    if task.backend == "cuda" and setting.device != "cuda":
        return Outcome(NEEDS_CUDA)
    if task.backend == "cpp" and (setting.device != "cpu" or _no_compiler()):
        return Outcome(_no_compiler() or NEEDS_CPU)
    if task.backend == "triton" and importlib.util.find_spec("triton") is None:
        return Outcome(NO_TRITON)
    return None


def _no_compiler() -> str:
    """Return why the C++ kernels cannot be compiled here, or an empty text if they can."""
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
