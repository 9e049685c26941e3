"""A second process for work that the first process cannot do, or for a share of its work.

Triton decides on import whether it compiles or interprets kernels. So Triton kernels run on the CPU in a second process
that interprets them. In a long run this process also takes a share of the other checks.

If the first process has not started threads yet, as on the command line under Linux, the second is a fork of it, and
the two share all work that either can do, derivations included. Otherwise the second process runs the ``affdiv``
command line again and returns the same JSON.
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
_EITHER = ("derivation", "property", "identity")  # families of checks that can run in either process


def interpreting() -> bool:
    """Whether Triton interprets its kernels in this process."""
    return os.environ.get(SWITCH) == "1"


def kernels(tasks: Sequence[Task], setting: Setting) -> list[Task]:
    """Return the tasks that need another process, in which Triton interprets; none if it does so in this one."""
    if interpreting() or setting.device != "cpu" or importlib.util.find_spec("triton") is None:
        return []
    return [task for task in tasks if task.backend == "triton"]


def shared(tasks: Sequence[Task], *, copied: bool) -> list[Task]:
    """Return the tasks that a second process can take over if there are many layers.

    A process that is not ``copied`` from this one has to derive everything again, so it re-checks only derivations.
    """
    if interpreting() or len({task.layer for task in tasks}) < MANY_LAYERS:
        return []
    families = _EITHER if copied else _EITHER[:1]
    return [task for task in tasks if task.family in families and task.backend in ("sympy", "torch")]


def can_copy() -> bool:
    """Whether a fork of this process could interpret: Triton is not imported yet, and the system can fork."""
    return sys.platform == "linux" and "triton" not in sys.modules


@dataclass(frozen=True)
class Loss:
    """A task for which the second process returned no result, and the failure to report for it."""

    task: Task
    outcome: Outcome


class Helper(Protocol):
    """A second process that runs tasks."""

    def share(self) -> Iterator[Task]:
        """Yield the shared tasks that this process should run, one at a time, until none is left."""

    def checks(self) -> dict[str, Check | Loss]:
        """Wait for the process; return the check of each of its tasks, or the loss if it returned none."""

    def stop(self) -> None:
        """End the process if it is still running."""


class Copy:
    """A fork of this process: it runs its ``own`` tasks, then shared work of ``either`` process until none is left."""

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
        for stream in (1, 2):  # only the first process writes to the terminal
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
        """Yield the shared tasks that this process should run, one at a time, until none is left."""
        for place in self._taken():
            self._here.add(place)
            yield from self._either[place].tasks()

    def checks(self) -> dict[str, Check | Loss]:
        """Wait for the process; return the check of each of its tasks, or the loss if it returned none."""
        self._process.join(_SECONDS)
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        works = [work for place, work in enumerate(self._either) if place not in self._here]
        code = self._process.exitcode  # if it exited normally it ran all tasks that it derived
        mine = [*self._own, *(task for work in works for task in (work.known if code == 0 else work.tasks()))]
        return _answers(mine, [*map(_entry, lines)], f"it ended with exit code {code}")

    def stop(self) -> None:
        """End the process if it is still running."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._folder.cleanup()


class Command:
    """The command line in a second process, for its own tasks; not started if there are no tasks."""

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
        """Yield nothing: the tasks were divided at the start."""
        return iter(())

    def checks(self) -> dict[str, Check | Loss]:
        """Wait for the process; return the check of each of its tasks, or the loss if it returned none."""
        if self.process is None:
            return {}
        said, problems = self.process.communicate(timeout=_SECONDS)
        try:
            entries = json.loads(said)["checks"]
        except (ValueError, KeyError, TypeError):
            entries = []
        last = (problems.strip().splitlines() or [f"it ended with exit code {self.process.returncode}"])[-1]
        return _answers(self.tasks, entries, last)

    def stop(self) -> None:
        """End the process if it is still running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def _answers(tasks: Sequence[Task], entries: Sequence[dict[str, Any]], last: str) -> dict[str, Check | Loss]:
    """Return the checks that a process returned, and for its other tasks a loss that says how it ended."""
    found = {entry["id"]: Check(**{**entry, "status": Status(entry["status"])}) for entry in entries if entry}
    lost = Outcome(f"the second process, which interprets Triton's kernels, returned no result: {last}", ok=False)
    return {**{task.id: Loss(task, lost) for task in tasks}, **found}


def _entry(line: str) -> dict[str, Any]:
    """Return the check in a line; empty if the process was killed while writing it."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
