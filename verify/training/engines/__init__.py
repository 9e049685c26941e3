"""Engines: what runs the workers of a sweep, and where. The store is the truth; an engine only keeps workers going."""

from __future__ import annotations

from typing import Protocol

from verify.training.worker import Job


class Engine(Protocol):
    """Workers on some machines, all on one store."""

    def capacity(self) -> int:
        """Return the number of workers that there is room for.

        Raises:
            UsageError: the machines cannot be reached.
        """

    def start(self, job: Job, workers: int) -> None:
        """Start that many workers on a job."""

    def tend(self) -> bool:
        """Start workers anew that were lost; return whether any is at work.

        Raises:
            UsageError: workers cannot work at all: what they were given cannot be used.
        """

    def stop(self) -> None:
        """Let every worker save its state and end; return when all have ended."""
