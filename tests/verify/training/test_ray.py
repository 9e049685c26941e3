"""The cluster engine on a real cluster of two nodes on this machine, one of which is killed during the run."""

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

import affdiv
from tests.verify.training.dying import children
from verify.training.checkpoint import content_of
from verify.training.driver import drive, register, summary
from verify.training.engines.ray import train_slice
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.store import MOST_LOSSES, Store
from verify.training.worker import Job, run_of, work

ROOT = Path(__file__).resolve().parents[3]
TEXT = """
methods = ["affine-like", "none"]
updates = ["momentum"]
learning_rates = [0.02, 0.05]
seeds = [0, 1, 2]
widths = [8]
depths = [1]
steps = 1000
evaluate_every = 500
"""


def prepared(folder, seeds="together", text=TEXT):
    folder.mkdir()
    (folder / "mine.toml").write_text(text)
    with Store(folder / "store", create=True) as store:
        register(store, load_experiment(folder / "mine.toml"), "digits", "cpu", seeds)
    return Job(str(folder / "store"), "mine", "digits", checkpoint_seconds=0.0, lease=60.0)


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed: `pip install 'affine-divergence[cluster]'`")
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = two.add_node(num_cpus=1)
    ray.init(address=two.address, logging_level=logging.ERROR, log_to_driver=False)
    yield two, second
    ray.shutdown()
    two.shutdown()


def kill(cluster, node):
    """Kill a node like a power failure: its workers too, which could otherwise still send results."""
    (raylet,) = (entry.process.pid for entry in node.all_processes["raylet"])
    workers = children(raylet)
    cluster.remove_node(node, allow_graceful=False)
    for number in workers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_that_is_killed_costs_time_and_no_number(tmp_path, cluster):
    from verify.training.engines.ray import RayEngine

    two, second = cluster
    several_slices = TEXT.replace("1000", "4000")
    job, undisturbed = (prepared(tmp_path / name, text=several_slices) for name in ("ray", "undisturbed"))
    engine, seen = RayEngine(), []
    assert engine.capacity() == 2

    def watch(done, total):
        """Kill the second node while both are in the middle of a slice: nothing returned at the last checks."""
        seen.append(done)
        if done and seen[-3:] == [done] * 3 and two.worker_nodes:
            kill(two, second)

    with Store(Path(job.store)) as store:
        drive(store, job, engine, 2, watch)
        found, state = to_csv(store.rows("mine")), summary(store, "mine")
        assert list(store.checkpoints.iterdir()) == []
    assert engine.lost >= 1
    assert state["trials"]["done"] == 12
    work(undisturbed)
    with Store(Path(undisturbed.store)) as store:
        assert to_csv(store.rows("mine")) == found


def test_slices_of_a_team_end_in_the_results_of_the_whole(tmp_path):
    job = prepared(tmp_path / "mine", text=TEXT.replace("1000", "5").replace("500", "3"))
    with Store(Path(job.store)) as store:
        claim = store.claim("mine")
    trials = json.dumps([[identity, asdict(config)] for identity, config in claim.trials])
    whole, _ = train_slice(claim.id, trials, "digits", b"", 1e9)
    state, slices = b"", 0
    text = "{}"
    while "results" not in json.loads(text):
        text, state = train_slice(claim.id, trials, "digits", state, 0.0)
        slices += 1
    assert (text, slices) == (whole, 6)
    fresh = content_of(run_of(claim, "digits"))
    assert train_slice(claim.id, trials, "digits", fresh[:-9], 1e9)[0] == whole, "a damaged state is none"


def test_a_machine_with_other_data_says_so(tmp_path):
    text, _ = train_slice("another", '[["id", {"method": "none", "learning_rate": 1.0}]]', "digits", b"", 1.0)
    assert "have changed since the sweep was started" in text and '"machine"' in text


def test_a_slice_that_is_lost_is_pending_again_until_it_was_too_often(tmp_path):
    job = prepared(tmp_path / "mine", text=TEXT.replace("[0, 1, 2]", "[0]"))
    with Store(Path(job.store)) as store:
        first = store.claim("mine").id
        for losses in range(1, MOST_LOSSES):
            store.lose(first)
            counts, *_ = store.progress("mine")
            assert (counts["pending"], counts["quarantined"]) == (4, 0), losses
            assert store.claim("mine").id == first
        store.lose(first)
        assert store.progress("mine")[0]["quarantined"] == 1
        assert f"lost {MOST_LOSSES} times" in next(row.error for row in store.rows("mine") if row.error)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    Path("mine.toml").write_text(TEXT)
    assert affdiv.run(["experiment", "run", "mine.toml", "--engine", "ray"]) == 2
    message = capsys.readouterr().err
    assert "Ray is not installed; `pip install 'affine-divergence[cluster]'`" in message and message.count("\n") == 1
    assert not (tmp_path / "affdiv-store").exists()


@pytest.mark.slow
def test_ray_warns_of_nothing_when_it_is_imported():
    pytest.importorskip("ray", reason="Ray is not installed: `pip install 'affine-divergence[cluster]'`")
    code = "import verify.training.engines.ray as e; e.RayEngine()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
