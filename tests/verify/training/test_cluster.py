"""A real cluster as the reference describes it: `ray start` on two nodes of this machine, and drivers as processes.

Slow: starting the nodes takes a quarter of a minute.
"""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from verify.training.driver import register
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.store import Store
from verify.training.worker import Job, work

ROOT = Path(__file__).resolve().parents[3]
AFFDIV = [sys.executable, str(ROOT / "affdiv.py")]
TEXT = """
methods = ["affine-like", "none"]
learning_rates = [0.02, 0.05]
seeds = [0, 1]
widths = [8]
depths = [1]
steps = 6000
evaluate_every = 3000
"""
WITHOUT = 'mount -t tmpfs tmpfs "$0" && exec "$@"'  # in a file system of its own, where the folder is empty

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    """A head node and the nodes that join it; every node is a separate process group."""

    def __init__(self, folder):
        self.address, self.folder, self.nodes = f"127.0.0.1:{free_port()}", folder, []
        self.environment = {**os.environ, "RAY_ADDRESS": self.address, "PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "0"}

    def start(self, *words, before=()):
        ray = Path(sys.executable).with_name("ray")
        command = [*before, str(ray), "start", "--block", "--num-cpus=1", "--disable-usage-stats", *words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        self.nodes.append(subprocess.Popen(command, env=environment, start_new_session=True, **quiet))

    def head(self, dashboard=0):
        port = self.address.rpartition(":")[2]
        shown = (
            ("--include-dashboard=true", f"--dashboard-port={dashboard}")
            if dashboard
            else ("--include-dashboard=false",)
        )
        self.start("--head", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={self.folder}", *shown)
        host, port = self.address.split(":")
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            time.sleep(0.2)
        raise AssertionError("the head did not start")

    def join(self, before=()):
        self.start(f"--address={self.address}", "--node-ip-address=127.0.0.1", before=before)

    def run(self, *words, **options):
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*AFFDIV, "experiment", *words], env=self.environment, **quiet, **options)

    def wait_for_nodes(self, count):
        code = (
            "import ray, time; ray.init(log_to_driver=False)\n"
            f"while len([n for n in ray.nodes() if n['Alive']]) < {count}: time.sleep(0.3)"
        )
        subprocess.run([sys.executable, "-c", code], env=self.environment, check=True, timeout=180, capture_output=True)

    def stop(self):
        for node in reversed(self.nodes):
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
        for node in self.nodes:
            with suppress(subprocess.TimeoutExpired):
                node.wait(3)
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


@pytest.fixture
def cluster():
    pytest.importorskip("ray", reason="Ray is not installed: `pip install 'affine-divergence[cluster]'`")
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets lie in it, whose paths must be short
    one = Cluster(folder)
    try:
        yield one
    finally:
        one.stop()
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed(folder, text=TEXT):
    folder.mkdir()
    (folder / "mine.toml").write_text(text)
    with Store(folder / "store", create=True) as store:
        register(store, load_experiment(folder / "mine.toml"), "digits", "cpu")
        work(Job(str(folder / "store"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0))
        return to_csv(store.rows("mine"))


def table(folder):
    with Store(folder / "store", read_only=True) as store:
        return to_csv(store.rows("mine"))


@contextmanager
def counted(store):
    """Count how often any process writes a result into each row."""
    with Store(store, create=True):
        pass
    with sqlite3.connect(store / "trials.sqlite") as connection:
        connection.executescript(
            "CREATE TABLE written (trial TEXT); CREATE TRIGGER count_results AFTER UPDATE OF result ON trials "
            "WHEN NEW.result IS NOT NULL BEGIN INSERT INTO written VALUES (NEW.id); END;"
        )
    connection.close()
    found = {}
    yield found
    with sqlite3.connect(store / "trials.sqlite") as connection:
        found.update(connection.execute("SELECT trial, count(*) FROM written GROUP BY trial").fetchall())
    connection.close()


def steps_done(folder):
    with Store(folder / "store", read_only=True) as store:
        return store.progress("mine")[1] if "mine" in store.experiments() else 0


def test_a_driver_that_is_killed_goes_on_and_every_result_is_written_once(cluster, tmp_path):
    cluster.head()
    cluster.join()
    cluster.wait_for_nodes(2)
    (tmp_path / "mine.toml").write_text(TEXT)
    words = ("run", "mine.toml", "--store", "store", "--engine", "ray", "--checkpoint-seconds", "0")
    with counted(tmp_path / "store") as written:
        first = cluster.run(*words, cwd=tmp_path)
        end = time.monotonic() + 300
        while first.poll() is None and steps_done(tmp_path) == 0:
            assert time.monotonic() < end, "nothing was trained"
            time.sleep(0.1)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        assert first.returncode == -signal.SIGKILL, "it was over before it was killed"
        second = cluster.run(*words, cwd=tmp_path)
        said, _ = second.communicate(timeout=600)
        assert second.returncode == 0, said
    assert len(written) == 8 and set(written.values()) == {1}
    assert table(tmp_path) == undisturbed(tmp_path / "undisturbed")


def can_hide(folder):
    words = ["unshare", "-m", "sh", "-c", WITHOUT, str(folder), "true"]
    return shutil.which("unshare") and subprocess.run(words, capture_output=True).returncode == 0


def test_a_node_without_the_data_is_named(cluster, tmp_path):
    data = tmp_path / "data"
    for part in ("train", "test"):
        for k in range(20):
            (data / part / f"{k % 2}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (k * 9, 5 * k, k)).save(data / part / f"{k % 2}" / f"{k}.png")
    if not can_hide(data):
        pytest.skip("a folder cannot be hidden from a process here")
    cluster.head()
    cluster.join(before=("unshare", "-m", "sh", "-c", WITHOUT, str(data)))
    cluster.wait_for_nodes(2)
    (tmp_path / "mine.toml").write_text(TEXT.replace("steps = 6000", "steps = 60").replace("3000", "30"))
    words = ("run", "mine.toml", "--store", "store", "--engine", "ray", "--data", str(data), "--workers", "2")
    process = cluster.run(*words, cwd=tmp_path)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 2, said
    assert f"error: on machine {socket.gethostname()}: " in said and str(data) in said and "Traceback" not in said
    with Store(tmp_path / "store", read_only=True) as store:
        counts, *_ = store.progress("mine")
        assert counts["quarantined"] == counts["failed"] == counts["running"] == 0


def test_a_job_is_submitted_as_the_reference_says(cluster, tmp_path):
    pytest.importorskip("ray.dashboard.modules.job.sdk", reason="job submission needs ray[default]")
    port = free_port()
    cluster.head(dashboard=port)
    cluster.join()
    cluster.wait_for_nodes(2)
    (tmp_path / "mine.toml").write_text(TEXT.replace("steps = 6000", "steps = 60").replace("3000", "30"))
    ray = str(Path(sys.executable).with_name("ray"))
    line = [ray, "job", "submit", f"--address=http://127.0.0.1:{port}", "--", *AFFDIV, "experiment", "run"]
    line += [str(tmp_path / "mine.toml"), "--engine", "ray", "--store", str(tmp_path / "store")]
    environment = {k: v for k, v in cluster.environment.items() if k != "RAY_ADDRESS"}
    end = time.monotonic() + 120
    while True:  # a cluster that has just started may have no agent yet that takes jobs, and says so
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
        if "No available agent" not in done.stderr + done.stdout or time.monotonic() > end:
            break
        time.sleep(2)
    assert done.returncode == 0 and "8 done" in done.stdout, done.stdout + done.stderr
    text = (tmp_path / "mine.toml").read_text()
    assert table(tmp_path) == undisturbed(tmp_path / "undisturbed", text)
