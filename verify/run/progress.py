"""Show progress on standard error if it is a terminal, and nothing otherwise."""

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
    """Receives the progress of a pipeline."""

    def begin(self, stage: str) -> None:
        """Called when a stage begins."""

    def advance(self, done: int, total: int) -> None:
        """Called with the progress of the current stage."""

    def report(self, stage: str, share: float) -> None:
        """Called with the current activity and its finished share."""


class Silent:
    """A watcher that shows nothing."""

    def begin(self, stage: str) -> None:
        """Ignore the stage."""

    def advance(self, done: int, total: int) -> None:
        """Ignore the count."""

    def report(self, stage: str, share: float) -> None:
        """Ignore the stage and the share."""


class Bars:
    """A watcher that shows one line: the stage, a bar, the count and the remaining time."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def begin(self, stage: str) -> None:
        """Reset the line for a new stage."""
        self._progress.reset(self._task, description=escape(printable(stage)), total=None, completed=0)

    def advance(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def report(self, stage: str, share: float) -> None:
        """Name the stage and set the bar to the share, in hundredths."""
        self._progress.update(self._task, description=stage, completed=round(100 * share), total=100)


@contextmanager
def watching(console: Console | None = None) -> Iterator[Watcher]:
    """Yield a watcher that draws on standard error if it is a terminal, otherwise a silent one."""
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
