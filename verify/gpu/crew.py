"""The parent's side of a worker process: start it, give it parts, end it with all its child processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import verify
from verify.gpu.part import FAIL, Part, Result, Setting

_ROOT = Path(verify.__file__).resolve().parent.parent
_END_SECONDS = 5.0


class Late(Exception):
    """The stage's time ended before the part did."""


class Worker:
    """One worker process; it starts with its first part, and restarts after a crash."""

    def __init__(self, setting: Setting, log: Path) -> None:
        self._setting, self._log = setting, log
        self._process: subprocess.Popen[bytes] | None = None
        self._held = b""

    def measure(self, module: str, part: Part, until: float) -> Result:
        """Return the result of a part, a failure if the worker dies or hangs; raise Late if ``until`` comes first."""
        process = self._process or self._start()
        now = time.monotonic()
        order = {"module": module, "request": dict(part.request), "seconds": max(0.0, until - now)}
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            line = self._line(min(until, now + part.most))
        except BrokenPipeError:
            line = b""
        if line is None:
            self.stop()
            if until <= now + part.most:
                raise Late
            return {"status": FAIL, "reason": f"no result after {part.most:.0f} s"}
        if not line:
            return {"status": FAIL, "reason": self._end_of(process)}
        result: Result = json.loads(line)
        if result.pop("lost", False):
            self.stop()
        return result

    def stop(self) -> None:
        """End the process and all its child processes."""
        process, self._process, self._held = self._process, None, b""
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                assert stream is not None
                stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), *_paths()]))}
        if self._setting.dry:
            environment["TRITON_INTERPRET"] = "1"  # Triton reads it on import
        command = [sys.executable, "-m", "verify.gpu.worker", self._setting.to_json()]
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, process_group=0
            )
        return self._process

    def _line(self, until: float) -> bytes | None:
        """Return the worker's next line, empty if it has ended; None if ``until`` comes first."""
        assert self._process is not None and self._process.stdout is not None
        stream = self._process.stdout.fileno()
        while b"\n" not in self._held:
            left = until - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                return None
            more = os.read(stream, 1 << 16)
            if not more:
                return b""
            self._held += more
        line, _, self._held = self._held.partition(b"\n")
        return line

    def _end_of(self, process: subprocess.Popen[bytes]) -> str:
        """Describe how the worker ended, with its last line of output."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        code = process.poll()
        self.stop()
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"the process ended {how}" + (f": {lines[-1].strip()[:200]}" if lines else "")


def _paths() -> list[str]:
    return [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
