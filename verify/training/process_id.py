"""Who works on a trial: a process, named so that another process can tell whether it is still there.

A process number alone is not enough: it is given out again after a while, and means nothing on another machine.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


def myself() -> str:
    """Return the name of this process: machine, process number, moment of its start."""
    return f"{_machine()}|{os.getpid()}|{_started(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Return whether the named process is known to be gone; False for a process on another machine."""
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
    """Name the machine, its boot and the space in which its process numbers are counted."""
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
    """Return when a process was started, in the system's ticks; empty where the system does not say."""
    try:
        fields = (_PROC / str(number) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "gone" if fields[0] in "ZX" else fields[19]
