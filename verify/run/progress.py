"""Tell a person at a terminal how far the run is, on standard error; tell a pipe nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from derive.errors import printable


class Watcher(Protocol):
    """What a pipeline reports to."""

    def begin(self, stage: str) -> None:
        """Hear that a stage begins."""

    def advance(self, done: int, total: int) -> None:
        """Hear how far the current stage is."""

    def report(self, stage: str, share: float) -> None:
        """Hear what is being done and which share of it is."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, stage: str) -> None:
        """Ignore the stage."""

    def advance(self, done: int, total: int) -> None:
        """Ignore the count."""

    def report(self, stage: str, share: float) -> None:
        """Ignore the stage and the share."""


class Bars:
    """A watcher that draws one line: the stage, a bar, the count and the time left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def begin(self, stage: str) -> None:
        """Start the line of a stage anew."""
        self._progress.reset(self._task, description=escape(printable(stage)), total=None, completed=0)

    def advance(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def report(self, stage: str, share: float) -> None:
        """Name the stage and set the bar to the share, in hundredths."""
        self._progress.update(self._task, description=stage, completed=round(100 * share), total=100)


@contextmanager
def watching(console: Console | None = None) -> Iterator[Watcher]:
    """Yield a watcher that draws on standard error if that is a terminal, and one that is silent otherwise."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Silent()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bars(progress)
