"""Run the stages: hand parts to workers and results to the stage's file, until all are done or time is up.

Each stage first gets at most its own seconds, in order of value; then unfinished stages share the remaining time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from verify.gpu.crew import Late, Worker
from verify.gpu.part import Part, Setting
from verify.gpu.stage_file import StageFile

_POLL_SECONDS = 0.2
_LEAST_SECONDS = 2.0  # with less time left, no part is started
Progress = Callable[[str, int, int], None]


def run_stages(
    files: Sequence[StageFile],
    setting: Setting,
    workers: int,
    until: float,
    progress: Progress,
    closed: Callable[[StageFile], object] = lambda _: None,
) -> None:
    """Measure the stages' remaining parts, until the time ``until`` of the monotonic clock.

    ``progress`` is called with the number of finished parts of a stage, ``closed`` when a stage ends for now. On an
    interrupt, all results are written before KeyboardInterrupt is raised.
    """
    for whole in (False, True):
        for file in files:
            now = time.monotonic()
            end = until if whole else min(until, now + file.stage.seconds)
            if file.left and end - now > _LEAST_SECONDS:
                try:
                    _run_stage(file, setting, workers, end, progress)
                finally:
                    file.close(time.monotonic() - now)
                closed(file)


def _run_stage(file: StageFile, setting: Setting, workers: int, until: float, progress: Progress) -> None:
    def ended() -> None:
        progress(file.stage.name, len(file.parts) - len(file.left), len(file.parts))

    ended()
    for alone, parts in groupby(file.left, key=lambda part: part.alone):
        chunks = [list(chunk) for _, chunk in groupby(parts, key=lambda part: part.group or part.name)]
        _Team(file, setting, until, ended).work(chunks, 1 if alone else min(workers, len(chunks)))


class _Team:
    """Threads that each hold a worker process and take one chunk of parts after another."""

    def __init__(self, file: StageFile, setting: Setting, until: float, ended: Callable[[], None]) -> None:
        self._file, self._setting, self._until, self._ended = file, setting, until, ended
        self._stopped = threading.Event()
        self._failures: list[BaseException] = []

    def work(self, chunks: Sequence[Sequence[Part]], count: int) -> None:
        """Measure all chunks with ``count`` workers; on an interrupt, end them first."""
        waiting: queue.Queue[Sequence[Part]] = queue.Queue()
        for chunk in chunks:
            waiting.put(chunk)
        workers = [Worker(self._setting, self._log(number)) for number in range(count)]
        threads = [threading.Thread(target=self._serve, args=(waiting, worker), daemon=True) for worker in workers]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(_POLL_SECONDS)
        finally:
            self._stopped.set()
            for worker in workers:
                worker.stop()
        if self._failures:
            raise self._failures[0]

    def _log(self, number: int) -> Path:
        return Path(self._setting.folder) / "logs" / f"{self._file.stage.name}-{number}.log"

    def _serve(self, waiting: queue.Queue[Sequence[Part]], worker: Worker) -> None:
        try:
            for part in _taken(waiting):
                if self._stopped.is_set() or self._until - time.monotonic() < max(part.least, _LEAST_SECONDS):
                    continue
                result = worker.measure(self._file.stage.module, part, self._until)
                if self._stopped.is_set():  # output of a stopped worker is not a result
                    return
                self._file.add(part, result)
                self._ended()
        except Late:
            return
        except BaseException as problem:
            self._failures.append(problem)


def _taken(waiting: queue.Queue[Sequence[Part]]) -> Iterator[Part]:
    """Yield the parts of waiting chunks until none is left."""
    while True:
        try:
            yield from waiting.get_nowait()
        except queue.Empty:
            return
