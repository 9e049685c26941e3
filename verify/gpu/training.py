"""The stage ``training``: the experiment ``fully-connected`` at the paper's scale, for two minutes in all.

First the seeds of a setting train as one stack, then one by one, to compare the speeds. Trials are kept in a store
inside the results folder, so that an interrupted part continues. Small networks and good rates come first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.gpu.part import FAIL, PASS, Part, Result, Setting

EXPERIMENT = "fully-connected"
_SECONDS = {"together": 75.0, "apart": 40.0}
_STOP_SECONDS = 15.0  # reserved for saving running trials
_WORKERS = 6
_COURSE_SECONDS = 5.0  # between two entries of the progress curve
_FIRST_RATES = (0.1, 1.0, 10.0, 0.01)


def parts(setting: Setting) -> Sequence[Part]:
    """Return a part for stacks and one for single seeds, named after their data."""
    data = "digits" if setting.data is None else Path(setting.data).name
    return [
        Part(
            f"{EXPERIMENT} on {data}, seeds {seeds}",
            {"data": setting.data, "seeds": seeds},
            alone=True,
            least=_STOP_SECONDS + 10.0,
            most=limit + 60.0,
        )
        for seeds, limit in _SECONDS.items()
    ]


def measure(request: Mapping[str, Any], setting: Setting, seconds: float) -> Result:
    """Train for the part's seconds or the time left; a dry run trains two short trials of each method."""
    from verify.training.cli import BUNDLED
    from verify.training.driver import drive, job_of, register, summary
    from verify.training.engines.local import LocalEngine
    from verify.training.experiment import PAPER, load_experiment
    from verify.training.store import Store

    source, seeds = request["data"] or "digits", request["seeds"]
    experiment = load_experiment(BUNDLED / f"{EXPERIMENT}.toml", scale=PAPER)
    trials = _small(experiment.trials) if setting.dry else sorted(experiment.trials, key=_value)
    end = time.monotonic() + min(_SECONDS[seeds], seconds - _STOP_SECONDS)
    with Store(Path(setting.folder) / f"training-{Path(source).name}-{seeds}", create=True) as store:
        register(store, replace(experiment, trials=tuple(trials)), source, setting.device, seeds)
        before = store.progress(EXPERIMENT)[1]
        start = time.monotonic()

        course: list[tuple[float, int]] = []

        def watch(done: int, total: int) -> None:
            passed = time.monotonic() - start
            if not course or passed - course[-1][0] >= _COURSE_SECONDS:
                course.append((round(passed, 1), done - before))
            if time.monotonic() > end and done < total:
                raise KeyboardInterrupt  # like a user's interrupt: workers save their trials

        job = job_of(store.database.parent, EXPERIMENT, source, checkpoint_seconds=20.0, lease=60.0)
        with suppress(KeyboardInterrupt):
            drive(store, job, LocalEngine(), 1 if setting.dry else _WORKERS, watch)
        taken = time.monotonic() - start
        steps = store.progress(EXPERIMENT)[1] - before
        return {**_result(summary(store, EXPERIMENT), source, steps, taken), "course": course}


def _small(trials: Sequence[Any]) -> list[Any]:
    """Return two seeds of one setting of each method, with few steps."""
    first = {trial.method: trial for trial in reversed(trials)}
    short = [replace(trial, epochs=None, steps=5, probe_every=0) for trial in first.values()]
    return [replace(trial, seed=seed) for trial in short for seed in (0, 1)]


def _value(trial: Any) -> tuple[Any, ...]:
    """Return the sort key of a trial: small networks first, good rates first, methods in turn, seeds together."""
    rate = _FIRST_RATES.index(trial.learning_rate) if trial.learning_rate in _FIRST_RATES else len(_FIRST_RATES)
    return trial.width, trial.depth, trial.activation, rate, trial.learning_rate, trial.method, trial.seed


def _result(found: dict[str, Any], source: str, steps: int, seconds: float) -> Result:
    """Return the result of training; it fails if a trial failed permanently or if no step was trained."""
    figures = {
        "data": source,
        "trials": found["trials"],
        "diverged": found["diverged"],
        "steps": found["steps"],
        "steps_now": steps,
        "seconds": round(seconds, 1),
        "trial_steps_per_s": round(steps / seconds, 1) if seconds else 0.0,
        "best_rates": found["best_rates"],
    }
    if found["errors"]:
        return {"status": FAIL, "reason": next(iter(found["errors"].values())), **figures}
    if not steps and found["steps"]["done"] < found["steps"]["total"]:
        return {"status": FAIL, "reason": "no step was trained", **figures}
    return {"status": PASS, **figures}
