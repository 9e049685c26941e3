"""A worker: claims one team of trials after another from the store and trains it, until none is left.

An engine starts it as ``python -m verify.training.worker JOB`` with the job as JSON. On SIGTERM, or when its parent
process is gone, it stops between two steps, saves its state and releases its trial.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from derive.errors import UsageError
from verify.threads import one_thread
from verify.training.checkpoint import (
    SUFFIX,
    DamagedCheckpoint,
    Run,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from verify.training.config import DTYPES, TrialConfig
from verify.training.data import Dataset, load
from verify.training.models import demand_fit
from verify.training.resource_errors import disk_full, failure, is_disk_full
from verify.training.seed_stacking import TeamRun
from verify.training.seed_stacks import team_of
from verify.training.store import Claim, LeaseLost, Store
from verify.training.trial import TrialResult, TrialRun

HEARTBEAT_SECONDS = 1.0
_IDLE_SECONDS = 0.02  # polling interval: a sweep may end this much later than its last trial
_WRONG_USAGE = 2


@dataclass(frozen=True)
class Job:
    """The job of a worker: store, data, experiment, and how often to save.

    ``trial_seconds`` is the time limit of a trial or team, 0 for none. ``parent`` is the process whose end ends the
    worker; None for an independent worker. ``signs`` is the descriptor of a pipe on which the parent waits for
    heartbeats.
    """

    store: str
    experiment: str
    data: str
    checkpoint_seconds: float
    lease: float
    trial_seconds: float = 0.0
    parent: int | None = None
    signs: int | None = None

    def to_json(self) -> str:
        """Return the job as one line of JSON."""
        return json.dumps(asdict(self))


class _Stopped(Exception):
    """Raised between two steps when the worker must stop."""


class Signs:
    """The heartbeats of a worker to its parent process, sent from the thread that does the work.

    A worker that is stopped, stuck or swapped out sends none. ``to`` is a descriptor, None if no process waits.
    """

    def __init__(self, to: int | None) -> None:
        self.to = to
        if to is not None:
            os.set_blocking(to, False)  # the parent may be stopped itself, and its pipe full

    def give(self) -> None:
        """Give a sign."""
        if self.to is not None:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self.to, b".")


def work(job: Job, stopped: Callable[[], bool] = lambda: False) -> None:
    """Train trials until the experiment has none left, or until ``stopped()``.

    Raises:
        UsageError: the store or the data cannot be used.
    """
    signs = Signs(job.signs)
    with Store(Path(job.store), lease=job.lease) as store, one_thread():
        while not stopped():
            claim = store.claim(job.experiment)
            if claim is not None:
                with suppress(LeaseLost, _Stopped):
                    _train(store, job, claim, stopped, signs)
            elif _over(store, job.experiment):
                return
            else:
                signs.give()
                time.sleep(_IDLE_SECONDS)


def _over(store: Store, experiment: str) -> bool:
    counts, *_ = store.progress(experiment)
    return counts["pending"] + counts["running"] + counts["failed"] == 0


def _train(store: Store, job: Job, claim: Claim, stopped: Callable[[], bool], signs: Signs) -> None:
    """Train a team to its end and write its results; an exception is recorded as its failure."""
    try:
        results = _results(store, job, claim, stopped, signs)
    except (UsageError, LeaseLost, _Stopped):
        raise
    except TimeOver as problem:
        store.give_up(claim.id, str(problem))
        return
    except Exception as problem:
        if is_disk_full(problem):
            store.release(claim.id)
            raise disk_full(store.checkpoints) from problem
        store.fail(claim.id, failure(problem, [config for _, config in claim.trials]))
        return
    store.complete(claim.id, *map(stored, results))
    remove_checkpoints(store.checkpoints, claim.id)


def _results(store: Store, job: Job, claim: Claim, stopped: Callable[[], bool], signs: Signs) -> list[TrialResult]:
    path, begun = store.checkpoints / f"{claim.id}{SUFFIX}", time.monotonic()
    run = _run(store, job, claim)
    signs.give()  # not earlier: the first claim waits for the data to be read
    try:
        load_checkpoint(run, path)
        store.heartbeat(claim.id, run.step)  # what the former owner saved counts as progress
    except FileNotFoundError:
        pass
    except DamagedCheckpoint as problem:
        print(f"note: {problem}; the trial starts from the beginning", file=sys.stderr)
    saved, beaten = time.monotonic(), begun
    while run.advance():
        now = time.monotonic()
        if stopped():
            save_checkpoint(run, path)
            store.release(claim.id)
            raise _Stopped
        if now - saved >= job.checkpoint_seconds:
            save_checkpoint(run, path)
            saved = now
        if now - beaten >= HEARTBEAT_SECONDS:
            signs.give()
            store.heartbeat(claim.id, run.step, now - beaten)
            demand_time(job.trial_seconds, claim.seconds + now - begun)
            beaten = now
    return results_of(run)


class TimeOver(Exception):
    """A trial or team has exceeded its time limit."""


def demand_time(limit: float, seconds: float) -> None:
    """Raise TimeOver if a trial has taken more ``seconds`` than the ``limit``, unless that is 0."""
    if limit and seconds > limit:
        raise TimeOver(f"it took longer than {limit:g} s; raise --trial-seconds and add --retry")


def _run(store: Store, job: Job, claim: Claim) -> Run:
    """Return the run of a claim before its first step; release the claim if it cannot be trained here."""
    try:
        return run_of(claim, job.data)
    except UsageError:
        store.release(claim.id)
        raise


def run_of(claim: Claim, source: str) -> Run:
    """Return the run of a claim before its first step; UsageError if the data differs from the registered data."""
    configs = [config for _, config in claim.trials]
    data = [data_of(config, source) for config in configs]
    team = team_of(configs, data[0].digest)
    if (team.id, team.trials) != (claim.id, claim.trials):
        raise UsageError(
            f"the data {source!r}, the generated layers or torch have changed since the sweep was started; "
            "run `affdiv experiment run` again"
        )
    if len(configs) == 1:
        return TrialRun(configs[0], data[0], team.id)
    return TeamRun(configs, data, team.identities, team.id)


@lru_cache(maxsize=64)
def dataset(source: str, split_seed: int, dtype: str, context: int = 0) -> Dataset:
    """Return the data of a source in a dtype, split by a seed; the splits of images share one tensor."""
    return load(source, split_seed, DTYPES[dtype], context)


def data_of(config: TrialConfig, source: str) -> Dataset:
    """Return the data of a trial from a source; UsageError for data that its model cannot read."""
    context = config.context if config.model == "transformer" else 0
    data = dataset(source, config.split, config.dtype, context)
    demand_fit(config, data.kind)
    return data


def with_data(config: TrialConfig, source: str) -> tuple[TrialConfig, Dataset]:
    """Return the settings with the data's name, and the data."""
    data = data_of(config, source)
    return replace(config, data=data.name), data


def results_of(run: Run) -> list[TrialResult]:
    """Return the results of a finished run, by seed."""
    return run.results() if isinstance(run, TeamRun) else [run.result()]


def stored(result: TrialResult) -> dict[str, Any]:
    """Return the part of a result that the store keeps: all but the settings, which are stored separately."""
    return {key: value for key, value in asdict(result).items() if key != "config"}


def main(arguments: list[str]) -> int:
    """Work on the job given as the only argument; return the exit code."""
    job = Job(**json.loads(arguments[0]))
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the driver, which tells its workers
    torch.set_num_interop_threads(1)
    try:
        work(job, lambda: bool(told) or (job.parent is not None and os.getppid() != job.parent))
    except UsageError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return _WRONG_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
