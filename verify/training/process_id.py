"""Names for processes that own trials, by which another process can tell whether they still run.

A process id alone is not enough: it is reused after a while, and means nothing on another machine.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


def myself() -> str:
    """Return the name of this process: machine, process id, start time."""
    return f"{_machine()}|{os.getpid()}|{_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Return whether the named process has certainly ended; False for a process on another machine."""
    machine, number, started = owner.split("|")
    if machine != _machine():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _started(int(number)) != started


@cache
def _machine() -> str:
    """Return a name of the machine, its boot and its process-id namespace."""
    parts = [socket.gethostname()]
    for read in (
        lambda: (_PROC / "sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append("")
    return " ".join(parts)


def _started(number: int) -> str:
    """Return the start time of a process in system ticks; empty if the system does not report it."""
    try:
        fields = (_PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] in "ZX" else fields[19]
