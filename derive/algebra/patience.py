"""Limits on the time and the number of steps of a proof, because normal forms can grow without bound.

The number of steps decides whether a proof is found, because it is the same on slow and on fast machines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf


class OutOfTime(Exception):
    """The time for a proof ran out."""


class Deadline:
    """A limit of ``seconds`` of processor time from now, out of ``whole`` in all, and of ``steps``.

    The time is never up before that many seconds of wall time have passed, even if other threads use processor time.
    """

    def __init__(self, seconds: float, whole: float | None = None, steps: float = inf) -> None:
        self.seconds, self.whole = seconds, seconds if whole is None else whole
        self._end = time.process_time() + seconds
        self._earliest = time.monotonic() + seconds
        self._steps = steps

    def over(self) -> bool:
        """Return whether the time or the steps are used up.

        Reading the process's clock is a system call, slow where there are many threads, so the wall clock is read
        first.
        """
        return self._steps < 0 or (time.monotonic() > self._earliest and time.process_time() > self._end)

    def step(self) -> None:
        """Count one step."""
        self._steps -= 1

    def within(self, seconds: float) -> Deadline:
        """Return a deadline of so many seconds from now, but no later than this one."""
        return Deadline(max(0.0, min(seconds, self._left())), self.whole)

    def steps(self, count: int) -> Deadline:
        """Return a deadline of so many steps, but no later than this one."""
        return Deadline(max(0.0, self._left()), self.whole, count)

    def part(self, count: int) -> Deadline:
        """Return the deadline of one of ``count`` tasks that share this one's remaining time."""
        return Deadline(max(0.0, self._left() / count), self.whole)

    def _left(self) -> float:
        return self._end - time.process_time()


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def until(deadline: Deadline) -> Iterator[None]:
    """Let ``go_on`` raise ``OutOfTime`` inside once the deadline is over."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def remaining() -> Deadline:
    """Return the current deadline, or one that never ends if none is set."""
    return _current.get() or Deadline(inf)


class Watch:
    """Reports whether the current deadline is over, to code that has no access to it."""

    def over(self) -> bool:
        """Return whether the time is up."""
        return remaining().over()


def go_on() -> None:
    """Count one step towards the current deadline, if there is one; raise ``OutOfTime`` if it is over."""
    deadline = _current.get()
    if deadline is None:
        return
    deadline.step()
    if deadline.over():
        raise OutOfTime
