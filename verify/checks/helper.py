"""A second process for what the first cannot do, or need not do alone.

Triton decides when it is imported whether its kernels are compiled or interpreted, so kernels run on the CPU in a
process that is told to interpret them. In a long run that process also re-checks the derivations, meanwhile. It is the
same command line as the user's, and answers in the same JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from verify.checks.record import Check, Outcome, Setting, Status, Task, options

SWITCH = "TRITON_INTERPRET"
NO_TRITON = "Triton is not installed (there are wheels for Linux only): pip install triton"
_MANY_LAYERS = 4
_SECONDS = 1800


def interpreting() -> bool:
    """Whether this process is one in which Triton interprets its kernels."""
    return os.environ.get(SWITCH) == "1"


def shared(tasks: Sequence[Task], setting: Setting) -> list[Task]:
    """Return the tasks that a helper is to run: none where this process is one."""
    if interpreting():
        return []
    many = len({task.layer for task in tasks}) >= _MANY_LAYERS
    return [task for task in tasks if _is_kernel(task, setting) or (many and task.id.startswith("derivation/"))]


def _is_kernel(task: Task, setting: Setting) -> bool:
    return task.backend == "triton" and setting.device == "cpu" and importlib.util.find_spec("triton") is not None


@dataclass
class Helper:
    """A process that runs tasks; ``checks`` waits for it."""

    tasks: Sequence[Task]
    setting: Setting
    process: subprocess.Popen[str] | None

    @classmethod
    def start(cls, tasks: Sequence[Task], setting: Setting) -> Helper:
        """Start a process for the tasks; none where there are none."""
        if not tasks:
            return cls(tasks, setting, None)
        named = dict.fromkeys(task.word or task.layer for task in tasks if task.word or task.package is None)
        words = [sys.executable, "-m", "affdiv", "verify", *named, "--json"]
        words += options(setting)
        for task in tasks:
            words += ["--only", task.id]
        paths = os.pathsep.join(path for path in ("", *sys.path) if path)
        environment = {**os.environ, SWITCH: "1", "PYTHONPATH": paths}
        process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return cls(tasks, setting, process)

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def checks(self) -> dict[str, Check | Outcome]:
        """Return the check of every task by its id, or what to say where the process gave none."""
        if self.process is None:
            return {}
        said, problems = self.process.communicate(timeout=_SECONDS)
        try:
            found = {entry["id"]: _check(entry) for entry in json.loads(said)["checks"]}
        except (ValueError, KeyError, TypeError):
            found = {}
        last = (problems.strip().splitlines() or [f"it ended with code {self.process.returncode}"])[-1]
        lost = Outcome(f"the process that interprets Triton's kernels gave no result: {last}", ok=False)
        return {task.id: found.get(task.id, lost) for task in self.tasks}


def _check(entry: dict[str, object]) -> Check:
    return Check(**{**entry, "status": Status(entry["status"])})  # type: ignore[arg-type]
