"""Engines run the workers of a sweep. The store holds all state; an engine only keeps workers running."""

from __future__ import annotations

from typing import Protocol

from verify.training.worker import Job


class Engine(Protocol):
    """Workers on one or more machines, with one store."""

    def capacity(self) -> int:
        """Return the number of workers that the machines have room for.

        Raises:
            UsageError: the machines cannot be reached.
        """

    def start(self, job: Job, workers: int) -> None:
        """Start the given number of workers on a job."""

    def tend(self) -> bool:
        """Restart lost workers; return whether any is running.

        Raises:
            UsageError: workers cannot work, because their job is unusable.
        """

    def stop(self) -> None:
        """Make every worker save its state and end; return when all have ended."""
