"""``affdiv experiment`` for the user, and under kills at any point, after which the table is the same."""

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import affdiv
from tests.verify.training.dying import children
from verify.training import worker
from verify.training.driver import register
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.store import Store
from verify.training.worker import Job, work

ROOT = Path(__file__).resolve().parents[3]
SMALL = """
methods = ["affine-like", "batch-norm"]
updates = ["momentum"]
learning_rates = [0.05, 1e300]
batch_sizes = [64]
seeds = [0, 1]
widths = [8]
depths = [2]
activation = "relu"
steps = 40
evaluate_every = 20
probe_every = 20
"""
EAGER = ("--workers", "2", "--checkpoint-seconds", "0")
LONGER = SMALL.replace("steps = 40", "steps = 150").replace("[0.05, 1e300]", "[0.05]")
LONGEST = LONGER.replace("steps = 150", "steps = 500")  # long enough to be interrupted, even if orphans continue

ONE = """
methods = ["batch-norm"]
learning_rates = [0.1]
widths = [8]
depths = [1]
steps = 3
"""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Return the table of an experiment, run once in this process without an engine."""
    tables = {}

    def table(text, seeds="auto"):
        if (text, seeds) not in tables:
            folder = tmp_path_factory.mktemp("undisturbed")
            (folder / "mine.toml").write_text(text)
            with Store(folder / "store", create=True) as store:
                register(store, load_experiment(folder / "mine.toml"), "digits", "cpu", seeds)
                work(Job(str(folder / "store"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0))
                tables[text, seeds] = to_csv(store.rows("mine"))
        return tables[text, seeds]

    return table


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call ``affdiv experiment VERB mine.toml`` in this process; return exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def command(verb, *options):
        capsys.readouterr()
        code = affdiv.run(["experiment", verb, "mine.toml", "--store", "store", *options])
        return (code, *capsys.readouterr())

    return command


def start(folder, *options):
    """Start ``run`` as a process with a process group of its own."""
    words = [sys.executable, str(ROOT / "affdiv.py"), "experiment", "run", "mine.toml", "--store", "store", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=folder, stdout=pipe, stderr=pipe, text=True, process_group=0)


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def running(folder):
    """How many trials are running, as another process sees it."""
    if not (folder / "store" / "trials.sqlite").exists():
        return 0
    with Store(folder / "store") as store:
        return store.progress("mine")[0]["running"]


def test_run_then_export_and_status(tmp_path, call, undisturbed):
    (tmp_path / "mine.toml").write_text(SMALL)
    code, out, err = call("run", "--workers", "1", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert (result["trials"]["done"], result["diverged"], result["steps"]["done"]) == (8, 4, 8 * 40)
    _, table, _ = call("export")
    assert table == undisturbed(SMALL)
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 8 == len({row["trial"] for row in rows})
    diverged = [row for row in rows if row["outcome"] == "diverged"]
    assert len(diverged) == 4 and {row["learning_rate"] for row in diverged} == {"1e+300"}
    assert all(0 < int(row["diverged_at"]) <= 40 and row["test_accuracy"] == "" for row in diverged)
    assert all(float(row["test_accuracy"]) > 0 for row in rows if row["outcome"] == "finished")
    assert list((tmp_path / "store" / "checkpoints").iterdir()) == []
    status = call("status")[1]
    assert "8 trials: 8 done; 4 diverged" in status
    assert "affine-like: best rate 0.05, " in status and status.count("at the edge of the grid") == 2
    assert "8 done" in call("run")[1], "run again, there is nothing left to do"
    (tmp_path / "mine.toml").write_text(LONGER)
    code, _, err = call("export")
    assert code == 2 and "mine.toml has changed since it was run; run it again" in err


def test_the_scale_that_was_run_is_the_one_that_is_spoken_of(tmp_path, call):
    (tmp_path / "mine.toml").write_text(ONE + "[paper]\nwidths = [4, 6]\n")
    assert "2 done" in call("run", "--workers", "1", "--scale", "paper")[1]
    for verb in ("status", "export"):
        assert call(verb, "--scale", "paper")[0] == 0
        code, out, err = call(verb)
        assert (code, out) == (2, "")
        assert "experiment 'mine' was last run at scale 'paper', not at 'cpu'; add --scale paper" in err


def disturbed(folder, kills, seed):
    """Kill driver and workers at random moments several times, repeating the command; return the outcome."""
    chance = random.Random(seed)
    process = start(folder, *EAGER)
    wait_for(lambda: running(folder) or process.poll() is not None)
    while kills and process.poll() is None:
        time.sleep(chance.uniform(0.0, 0.5))
        driver = kills % 2 == 0
        for victim in [process.pid] if driver else children(process.pid)[:1]:
            os.kill(victim, signal.SIGKILL)
            kills -= 1
        if driver:
            process.communicate()
            assert process.returncode == -signal.SIGKILL
            process = start(folder, *EAGER)
            wait_for(lambda p=process: children(p.pid) or p.poll() is not None)
    return process


@pytest.mark.slow
def test_killed_then_interrupted_the_same_line_goes_on_to_the_same_table(tmp_path, call, undisturbed):
    (tmp_path / "mine.toml").write_text(LONGEST)
    process = disturbed(tmp_path, kills=2, seed=0)
    wait_for(lambda: children(process.pid))
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("stopped: ")
    assert err.endswith("of 4 trials done; give the same command again to continue\n")
    assert not any(Path(f"/proc/{number}").exists() for number in workers)
    assert running(tmp_path) == 0
    assert call("run", "--workers", "1")[0] == 0
    assert call("export")[1] == undisturbed(LONGEST)


@pytest.mark.slow
def test_two_drivers_at_once_share_the_work(tmp_path, call, undisturbed):
    (tmp_path / "mine.toml").write_text(LONGER)
    drivers = [start(tmp_path, "--workers", "1") for _ in range(2)]
    for driver in drivers:
        out, err = driver.communicate(timeout=240)
        assert (driver.returncode, err) == (0, ""), err
        assert "4 trials: 4 done" in out
    assert call("export")[1] == undisturbed(LONGER)


def dying(folder, mode, text, seeds="apart", **environment):
    """Run ``dying.py``, which kills the children of one process; return the outcome of each."""
    (folder / "mine.toml").write_text(text)
    words = [
        sys.executable,
        str(Path(__file__).with_name("dying.py")),
        mode,
        "mine.toml",
        str(folder / "stores"),
        seeds,
    ]
    paths = {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=280, env={**os.environ, **paths})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_killed_fifty_times_the_table_is_the_same(tmp_path, undisturbed):
    text = LONGER.replace("150", "1500")
    (result,) = dying(tmp_path, "anytime", text)
    assert result["killed"] == 50
    assert result["table"] == undisturbed(text, "apart")
    assert result["left"] == []


@pytest.mark.slow
def test_drivers_and_workers_of_teams_killed_fifty_times_the_table_is_the_same(tmp_path, undisturbed):
    text = LONGER.replace("150", "1500")
    (result,) = dying(tmp_path, "anyone", text, "together")
    assert result["driver"] + result["worker"] == 50 and min(result["driver"], result["worker"]) > 10
    assert result["table"] == undisturbed(text, "together")
    assert result["left"] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to build the calls that kill")
def test_killed_at_every_single_write_the_table_is_the_same(tmp_path, undisturbed):
    library = tmp_path / "dying.so"
    source = str(Path(__file__).with_name("dying.c"))
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", source, "-o", str(library), "-ldl"], check=True)
    results = dying(tmp_path, "everywhere", ONE, LD_PRELOAD=str(library))
    assert len(results) > 30, "claims, checkpoints, heartbeats and the result are many calls"
    assert {result["table"] for result in results} == {undisturbed(ONE)}


@pytest.fixture
def stopped(tmp_path):
    """A store with one trial that was stopped after ten steps, its job and its checkpoint."""
    (tmp_path / "mine.toml").write_text(ONE.replace("3", "30"))
    with Store(tmp_path / "store", create=True) as store:
        register(store, load_experiment(tmp_path / "mine.toml"), "digits", "cpu")
    job = Job(str(tmp_path / "store"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0)
    asked = iter(range(1000))
    work(job, lambda: next(asked) >= 10)
    (path,) = (tmp_path / "store" / "checkpoints").iterdir()
    return job, path


@pytest.mark.parametrize("damage", ["none", "short", "empty"])
def test_a_stopped_trial_goes_on_or_starts_anew_if_its_checkpoint_is_damaged(stopped, damage, capsys, undisturbed):
    job, path = stopped
    content = path.read_bytes()
    if damage != "none":
        path.write_bytes(content[: len(content) // 2 * (damage == "short")])
    steps = iter(range(1000))
    work(job, lambda: next(steps) < 0)
    asked = next(steps)
    assert asked == 2 + (20 if damage == "none" else 30), "twice between trials, once after each step that was left"
    assert ("the trial starts from the beginning" in capsys.readouterr().err) == (damage != "none")
    with Store(Path(job.store)) as store:
        assert to_csv(store.rows("mine")) == undisturbed(ONE.replace("3", "30"))
    assert not path.exists()


def test_a_trial_that_raises_is_failed_then_quarantined_and_the_rest_goes_on(tmp_path, call, monkeypatch):
    (tmp_path / "mine.toml").write_text(ONE + "seeds = [0, 1]")
    with Store(tmp_path / "store", create=True) as store:
        register(store, load_experiment(tmp_path / "mine.toml"), "digits", "cpu")
    real = worker.TrialRun

    def broken(config, data, identity):
        if config.seed == 1:
            raise RuntimeError("out of memory")
        return real(config, data, identity)

    monkeypatch.setattr(worker, "TrialRun", broken)
    work(Job(str(tmp_path / "store"), "mine", "digits", 1e9, 60.0))
    code, out, _ = call("run")
    assert code == 1 and "1 done, 1 quarantined" in out and "RuntimeError: out of memory" in out
    assert [row["state"] for row in csv.DictReader(io.StringIO(call("export")[1]))] == ["done", "quarantined"]


def test_a_damaged_store_exits_2_with_one_line(stopped, call):
    job, _ = stopped
    database = Path(job.store) / "trials.sqlite"
    database.write_bytes(database.read_bytes()[:-3000])
    for verb in ("run", "export", "status"):
        code, out, err = call(verb)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "trials.sqlite cannot be used" in err and "move it away and run again" in err


def test_usage_errors_exit_2_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text(SMALL)
    (tmp_path / "bad.toml").write_text(SMALL + "seedz = 1\n")
    for words, message in [
        (["run", "bad.toml"], "bad.toml:13: seedz: this key is not known; did you mean 'seeds'?"),
        (["run", "absent.toml"], "'absent.toml' does not exist"),
        (["run", "nobody"], "no bundled experiment is named 'nobody'; there are alignment-or-function, "),
        (["run", "smoke", "--scale", "moon"], "--scale 'moon' is not known; choose one of cpu, paper"),
        (["run", "good.toml", "--scale", "paper"], "good.toml: there is no scale 'paper'"),
        (
            ["run", "smoke", "--scale", "paper"],
            "experiment 'smoke' has no data of its own at this scale; name a source with",
        ),
        (["run", "good.toml", "--engine", "moon"], "--engine 'moon' is not known; choose one of local, ray"),
        (["run", "good.toml", "--device", "tpu"], "--device 'tpu' is not known; choose one of cpu, cuda"),
        (["run", "good.toml", "--data", "nowhere"], "--data 'nowhere' does not exist"),
        (["run", "good.toml", "--workers", "0"], "Invalid value for '--workers'"),
        (["status", "good.toml"], "no store at 'affdiv-store'"),
        (["export", "good.toml", "--store", "none"], "no store at 'none'"),
    ]:
        assert affdiv.run(["experiment", *words]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and message in printed.err, printed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.toml", "good.toml"]
