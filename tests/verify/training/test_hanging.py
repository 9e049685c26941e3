"""Workers that hang: one without heartbeats is killed and replaced, and a trial ends at its time limit."""

import os
import signal
import time
from pathlib import Path

import pytest

from verify.training.driver import drive, register
from verify.training.engines.local import LocalEngine
from verify.training.experiment import load_experiment
from verify.training.store import Store
from verify.training.worker import Job, TimeOver, demand_time, work

TEXT = """
methods = ["none"]
learning_rates = [0.1]
seeds = [0]
widths = [8]
depths = [1]
steps = 12000
evaluate_every = 0
"""


def prepared(folder, text=TEXT, **options):
    (folder / "mine.toml").write_text(text)
    with Store(folder / "store", create=True) as store:
        register(store, load_experiment(folder / "mine.toml"), "digits", "cpu")
    return Job(str(folder / "store"), "mine", "digits", checkpoint_seconds=0.5, lease=10.0, **options)


def test_a_stopped_worker_is_replaced_and_ended(tmp_path):
    job, engine, stopped = prepared(tmp_path), LocalEngine(), []

    def watch(done, total):
        """Stop the worker once it is on its way; everything else follows."""
        if not stopped and 0 < done < total:
            stopped.extend(engine.processes)
            os.kill(stopped[0], signal.SIGSTOP)
            engine._workers[0].silent = 8.0  # the test waits for the rest of the lease

    with Store(Path(job.store)) as store:
        drive(store, job, engine, 1, watch)
        assert store.progress("mine")[0]["done"] == 1
    assert stopped and engine.hung == 1
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)


def test_a_driver_that_was_held_up_itself_takes_nobody_for_hung(tmp_path):
    job, engine = prepared(tmp_path), LocalEngine()
    engine.start(job, 1)
    try:
        while not engine._workers[0].heard:
            assert engine.tend()
            time.sleep(0.05)
        os.kill(engine.processes[0], signal.SIGSTOP)
        engine._looked -= 1e6
        assert engine.tend() and engine.hung == 0 and engine._workers[0].silent <= 3.0
        os.kill(engine.processes[0], signal.SIGCONT)
    finally:
        engine.stop()


def test_a_trial_ends_when_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr("verify.training.worker.HEARTBEAT_SECONDS", 0.0)
    job = prepared(tmp_path, trial_seconds=1e-3)
    work(job)
    with Store(Path(job.store)) as store:
        (row,) = store.rows("mine")
        assert (row.state, row.failures) == ("quarantined", 1)
        assert row.error == "it took longer than 0.001 s; raise --trial-seconds and add --retry"
    demand_time(0.0, 1e9)
    with pytest.raises(TimeOver):
        demand_time(5.0, 5.1)
