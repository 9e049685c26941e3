"""The driver of a sweep: write the trials into the store, keep workers running, watch until all trials have ended.

register   experiment, data source -> trials in the store
drive      store, engine -> every trial done or quarantined
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from derive.errors import UsageError
from verify.training import stages
from verify.training.checkpoint import remove_checkpoints
from verify.training.config import TrialConfig
from verify.training.engines import Engine
from verify.training.experiment import BEST, Experiment
from verify.training.export import line
from verify.training.rates import best_rates
from verify.training.seed_stacks import team_of, teams
from verify.training.store import Store
from verify.training.trial import steps_of
from verify.training.worker import Job, with_data

POLL_SECONDS = 0.1


def register(
    store: Store,
    experiment: Experiment,
    source: str,
    device: str,
    seeds: str = "auto",
    parts: Sequence[Sequence[TrialConfig]] | None = None,
) -> None:
    """Write the trials of an experiment on the data of ``source`` into the store; known ones are left unchanged.

    ``seeds`` determines which trials train together, see ``seed_stacks``; trials of different ``parts`` never do. By
    default the parts are those of the first stage, see ``stages``.

    Raises:
        UsageError: unusable data, or a missing device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device on this machine; use --device cpu")
    found: dict[TrialConfig, tuple[str, str]] = {}
    trials = []
    for part in stages.first(experiment) if parts is None else parts:
        data = dict(with_data(replace(config, device=device), source) for config in part)
        for configs in teams(data, seeds):
            team = team_of(configs, data[configs[0]].digest)
            found |= {config: (identity, team.id) for identity, config in team.trials}
        trials += [(found[config][0], config, steps_of(config, len(own.train))) for config, own in data.items()]
    settings = {"data": source, "device": device, "seeds": seeds}
    store.register(experiment.name, experiment.text, settings, trials, dict(found.values()))


def register_judging(store: Store, experiment: Experiment, source: str, device: str, seeds: str = "auto") -> bool:
    """Add the judging trials at the rates that the tuning seeds chose; return whether the experiment has such a stage.

    Raises:
        UsageError: as ``register``.
    """
    if experiment.judging != BEST:
        return False
    register(store, experiment, source, device, seeds, stages.second(experiment, store.rows(experiment.name)))
    return True


def drive(store: Store, job: Job, engine: Engine, workers: int, watch: Callable[[int, int], None]) -> None:
    """Let workers train until every trial of the experiment is done or quarantined; ``watch`` receives the steps.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once every worker has saved its state and ended.
        UsageError: the workers cannot work.
    """
    with _terminated_is_interrupted():
        try:
            counts, done, total = store.progress(job.experiment)
            left = counts["pending"] + counts["running"] + counts["failed"]
            if left:
                engine.start(job, min(workers, left))
            while left and engine.tend():
                counts, done, total = store.progress(job.experiment)
                left = counts["pending"] + counts["running"] + counts["failed"]
                watch(done, total)
                time.sleep(POLL_SECONDS)
            watch(total, total)
        finally:
            engine.stop()
    tidy(store)


def job_of(
    store_path: Path, experiment: str, source: str, checkpoint_seconds: float, lease: float, trial_seconds: float = 0.0
) -> Job:
    """Return the job for the workers of an experiment."""
    return Job(str(store_path.absolute()), experiment, source, checkpoint_seconds, lease, trial_seconds)


def summary(store: Store, experiment: str, tuning: frozenset[int] | None = None) -> dict[str, Any]:
    """Return the state of an experiment in the schema ``affdiv.experiment/1``; ``tuning`` is as in ``best_rates``."""
    counts, done, total = store.progress(experiment)
    rows = store.rows(experiment)
    lines = [line(row) for row in rows]
    diverged = sum(row.result is not None and row.result["diverged_at"] is not None for row in rows)
    return {
        "schema": "affdiv.experiment/1",
        "experiment": experiment,
        "trials": counts,
        "steps": {"done": done, "total": total},
        "diverged": diverged,
        "best_rates": [{**asdict(best), "setting": dict(best.setting)} for best in best_rates(lines, tuning)],
        "errors": {row.id: row.error for row in rows if row.error},
    }


def tidy(store: Store) -> None:
    """Remove checkpoints of finished trials whose processes were killed before they could do it."""
    for identity in store.done_among({path.name.lstrip(".").split(".")[0] for path in store.checkpoints.iterdir()}):
        remove_checkpoints(store.checkpoints, identity)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Make SIGTERM end the sweep like Ctrl-C; only possible in the main thread, which handles signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
