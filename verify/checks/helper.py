"""A second process for work that the first process cannot do, or can share.

Triton decides when it is imported whether its kernels are compiled or interpreted, so kernels run on the CPU in a
process that is told to interpret them. In a long run that process also re-checks the derivations, meanwhile.

If the first process has started nothing yet, as on the command line under Linux, the second is a fork of it, and the
two share all work that either can do, derivations included. Otherwise the second runs the user's command line again and
answers in the same JSON.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from verify.checks.record import Check, Outcome, Setting, Status, Task, Work, options
from verify.triton_interpreter import mend

SWITCH = "TRITON_INTERPRET"
NO_TRITON = "Triton is not installed (there are wheels for Linux only): pip install triton"
MANY_LAYERS = 4
_SECONDS = 1800
_EITHER = ("derivation", "property", "identity")  # families that take any process


def interpreting() -> bool:
    """Whether this process is one in which Triton interprets its kernels."""
    return os.environ.get(SWITCH) == "1"


def kernels(tasks: Sequence[Task], setting: Setting) -> list[Task]:
    """Return the tasks that need a process in which Triton interprets: none where this process is one."""
    if interpreting() or setting.device != "cpu" or importlib.util.find_spec("triton") is None:
        return []
    return [task for task in tasks if task.backend == "triton"]


def shared(tasks: Sequence[Task], *, copied: bool) -> list[Task]:
    """Return the tasks that a second process may do as well, where there are many layers.

    A process that is not ``copied`` from this one has to derive everything again: it re-checks derivations alone.
    """
    if interpreting() or len({task.layer for task in tasks}) < MANY_LAYERS:
        return []
    families = _EITHER if copied else _EITHER[:1]
    return [task for task in tasks if task.family in families and task.backend in ("sympy", "torch")]


def can_copy() -> bool:
    """Whether a copy of this process could interpret: Triton is not imported, and the system can copy processes."""
    return sys.platform == "linux" and "triton" not in sys.modules


@dataclass(frozen=True)
class Loss:
    """A task to which a second process gave no result, and what to say of it."""

    task: Task
    outcome: Outcome


class Helper(Protocol):
    """A second process that runs tasks."""

    def share(self) -> Iterator[Task]:
        """Yield the tasks that are left for this process, one at a time, until none is."""

    def checks(self) -> dict[str, Check | Loss]:
        """Wait for the process, and return the check of each of its tasks, or what to say where it gave none."""

    def stop(self) -> None:
        """End the process, if it still runs."""


class Copy:
    """A copy of this process: it does its ``own`` tasks, then what is left of the work that either can do."""

    def __init__(self, own: Sequence[Task], either: Sequence[Work], run: Callable[[Task], Check]) -> None:
        context = multiprocessing.get_context("fork")
        self._own, self._either, self._run = own, either, run
        self._next, self._here = context.Value("q", 0), set[int]()
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "checks.json"
        self._process = context.Process(target=self._work, daemon=True)
        self._process.start()

    def _work(self) -> None:
        os.environ[SWITCH] = "1"
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # the terminal is the other process's
            os.dup2(silent, stream)
        mend()
        shared = (task for place in self._taken() for task in self._either[place].tasks())
        with self._file.open("w", encoding="utf-8") as file:
            for task in itertools.chain(self._own, shared):
                file.write(json.dumps(asdict(self._run(task))) + "\n")
                file.flush()

    def _taken(self) -> Iterator[int]:
        while True:
            with self._next.get_lock():
                place = self._next.value
                self._next.value = place + 1
            if place >= len(self._either):
                return
            yield place

    def share(self) -> Iterator[Task]:
        """Yield the tasks that are left for this process, one at a time, until none is."""
        for place in self._taken():
            self._here.add(place)
            yield from self._either[place].tasks()

    def checks(self) -> dict[str, Check | Loss]:
        """Wait for the process, and return the check of each of its tasks, or what to say where it gave none."""
        self._process.join(_SECONDS)
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        works = [work for place, work in enumerate(self._either) if place not in self._here]
        code = self._process.exitcode  # where it ended well it did all that it derived
        mine = [*self._own, *(task for work in works for task in (work.known if code == 0 else work.tasks()))]
        return _answers(mine, [*map(_entry, lines)], f"it ended with code {code}")

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._folder.cleanup()


class Command:
    """The command line in a process of its own, for its own tasks; there is none where there are no tasks."""

    def __init__(self, tasks: Sequence[Task], setting: Setting) -> None:
        self.tasks = tasks
        self.process = self._start(setting) if tasks else None

    def _start(self, setting: Setting) -> subprocess.Popen[str]:
        named = dict.fromkeys(task.word or task.layer for task in self.tasks if task.word or task.package is None)
        words = [sys.executable, "-m", "affdiv", "verify", *named, "--json"]
        words += options(setting)
        for task in self.tasks:
            words += ["--only", task.id]
        paths = os.pathsep.join(path for path in ("", *sys.path) if path)
        environment = {**os.environ, SWITCH: "1", "PYTHONPATH": paths}
        return subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def share(self) -> Iterator[Task]:
        """Yield nothing: this process has its own tasks from the start."""
        return iter(())

    def checks(self) -> dict[str, Check | Loss]:
        """Wait for the process, and return the check of each of its tasks, or what to say where it gave none."""
        if self.process is None:
            return {}
        said, problems = self.process.communicate(timeout=_SECONDS)
        try:
            entries = json.loads(said)["checks"]
        except (ValueError, KeyError, TypeError):
            entries = []
        last = (problems.strip().splitlines() or [f"it ended with code {self.process.returncode}"])[-1]
        return _answers(self.tasks, entries, last)

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def _answers(tasks: Sequence[Task], entries: Sequence[dict[str, Any]], last: str) -> dict[str, Check | Loss]:
    """Return the checks that a process gave, and of its other tasks a loss that says how it ended."""
    found = {entry["id"]: Check(**{**entry, "status": Status(entry["status"])}) for entry in entries if entry}
    lost = Outcome(f"the second process, which interprets Triton's kernels, gave no result: {last}", ok=False)
    return {**{task.id: Loss(task, lost) for task in tasks}, **found}


def _entry(line: str) -> dict[str, Any]:
    """Return the check in a line; nothing if the process was killed while it wrote."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
