"""The default engine: worker processes on this machine.

A worker stands in a process group of its own, so that Ctrl-C at a terminal reaches the driver alone, which then tells
its workers. A worker whose driver is gone ends by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import verify
from derive.errors import UsageError
from verify.training.worker import Job

STOP_SECONDS = 20.0
_MOST_CRASHES = 5  # in a row that ended with an error of Python's: a worker that cannot even start
_ROOT = Path(verify.__file__).resolve().parent.parent


class LocalEngine:
    """Worker processes of this machine."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._crashes = 0

    @property
    def processes(self) -> list[int]:
        """The numbers of the worker processes at work."""
        return [worker.pid for worker in self._workers if worker.poll() is None]

    def capacity(self) -> int:
        """Return the number of cores that this process may use."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def start(self, job: Job, workers: int) -> None:
        """Start that many workers on a job."""
        self._job = replace(job, parent=os.getpid())
        self._workers = [self._spawn() for _ in range(workers)]

    def tend(self) -> bool:
        """Start workers anew that were killed or crashed; return whether any is at work.

        Raises:
            UsageError: a worker has said that what it was given cannot be used, or crashed at every start.
        """
        for place, worker in enumerate(self._workers):
            code = worker.poll()
            if code is None or code == 0:
                continue
            self._judge(code)
            self._workers[place] = self._spawn()
        return bool(self.processes)

    def stop(self) -> None:
        """Tell every worker to save its state and end; kill what has not ended after ``STOP_SECONDS``."""
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.terminate()
        end = time.monotonic() + STOP_SECONDS
        try:
            for worker in self._workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(max(0.0, end - time.monotonic()))
        finally:
            for worker in self._workers:
                worker.kill()
                worker.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert self._job is not None
        command = [sys.executable, "-m", "verify.training.worker", self._job.to_json()]
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, process_group=0
        )

    def _judge(self, code: int) -> None:
        if code == 2:
            raise UsageError("a worker could not go on; its message stands above")
        if code < 0 and -code != signal.SIGSEGV:
            return
        self._crashes += 1
        if self._crashes >= _MOST_CRASHES:
            raise UsageError(
                f"{self._crashes} workers crashed, the last with exit code {code}; their messages stand above"
            )
