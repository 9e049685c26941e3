"""The default engine: worker processes on this machine.

A worker has its own process group, so that Ctrl-C at a terminal reaches only the driver, which then tells its workers.
A worker whose driver is gone ends by itself. A worker without a heartbeat for the length of a lease, because it is
stopped, stuck or swapped out, is killed and replaced.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import verify
from derive.errors import UsageError
from verify.training.worker import Job

START_SECONDS = 600.0  # allowed silence before the first heartbeat: imports and reading data
STOP_SECONDS = 20.0
_LONGEST_LOOK = 1.0  # most silence counted between two checks: the checker may be delayed itself
_MOST_CRASHES = 5  # consecutive Python errors after which workers count as unable to start
_ROOT = Path(verify.__file__).resolve().parent.parent


@dataclass
class _Worker:
    """A worker process, the descriptor of its heartbeats, and the seconds since the last one."""

    process: subprocess.Popen[bytes]
    signs: int
    silent: float = 0.0
    heard: bool = False

    def listen(self, seconds: float) -> None:
        """Read heartbeats, ``seconds`` after the last check."""
        self.silent += min(seconds, _LONGEST_LOOK)
        with suppress(BlockingIOError):
            if os.read(self.signs, 4096):
                self.silent, self.heard = 0.0, True

    def end(self) -> None:
        """Kill the process if it is running, and reap it."""
        self.process.kill()
        self.process.wait()
        os.close(self.signs)


class LocalEngine:
    """Worker processes on this machine; ``hung`` counts those killed for missing heartbeats."""

    def __init__(self) -> None:
        self._job: Job | None = None
        self._workers: list[_Worker] = []
        self._crashes = 0
        self._looked = 0.0
        self.hung = 0

    @property
    def processes(self) -> list[int]:
        """The process ids of the running workers."""
        return [worker.process.pid for worker in self._workers if worker.process.poll() is None]

    def capacity(self) -> int:
        """Return the number of cores available to this process."""
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def start(self, job: Job, workers: int) -> None:
        """Start that many workers on a job."""
        self._job = replace(job, parent=os.getpid())
        self._workers = [self._spawn() for _ in range(workers)]
        self._looked = time.monotonic()

    def tend(self) -> bool:
        """Replace workers that were killed, crashed or hang; return whether any is running.

        Raises:
            UsageError: a worker reported that its job is unusable, or workers crashed at every start.
        """
        now = time.monotonic()
        for place, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code == 0:
                continue
            worker.listen(now - self._looked)
            if code is None and not self._hangs(worker):
                continue
            if code is not None:
                self._judge(code)
            worker.end()
            self._workers[place] = self._spawn()
        self._looked = now
        return bool(self.processes)

    def stop(self) -> None:
        """Tell every worker to save its state and end; kill those still running after ``STOP_SECONDS``."""
        for worker in self._workers:
            with suppress(ProcessLookupError):
                worker.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        try:
            for worker in self._workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, end - time.monotonic()))
        finally:
            for worker in self._workers:
                worker.end()
            self._workers = []

    def _hangs(self, worker: _Worker) -> bool:
        """Return whether a worker has been silent for too long; killing it frees its claims."""
        assert self._job is not None
        hangs = worker.silent > (self._job.lease if worker.heard else START_SECONDS)
        self.hung += hangs
        return hangs

    def _spawn(self) -> _Worker:
        assert self._job is not None
        here, there = os.pipe()
        job = replace(self._job, signs=there)
        command = [sys.executable, "-m", "verify.training.worker", job.to_json()]
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                process_group=0,
                pass_fds=(there,),
            )
        finally:
            os.close(there)
        os.set_blocking(here, False)
        return _Worker(process, here)

    def _judge(self, code: int) -> None:
        if code == 2:
            raise UsageError("a worker could not continue; its message is above")
        if code < 0 and -code != signal.SIGSEGV:
            return
        self._crashes += 1
        if self._crashes >= _MOST_CRASHES:
            raise UsageError(
                f"{self._crashes} workers crashed, the last with exit code {code}; their messages are above"
            )
