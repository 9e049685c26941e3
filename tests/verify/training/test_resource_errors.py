"""Out of memory, a full disk, or a jumping clock: a clear message, nothing lost, and the sweep continues."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from derive.errors import UsageError
from verify.training.driver import register
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.store import Store
from verify.training.worker import Job, work

ROOT = Path(__file__).resolve().parents[3]
TEXT = """
methods = ["affine-like"]
updates = ["momentum"]
learning_rates = [0.1]
seeds = [0, 1]
widths = [8]
depths = [1]
steps = 30
evaluate_every = 10
"""


def prepared(store_path, folder, text=TEXT, seeds="apart", every=0.0):
    (folder / "mine.toml").write_text(text)
    with Store(store_path, create=True) as store:
        register(store, load_experiment(folder / "mine.toml"), "digits", "cpu", seeds)
    return Job(str(store_path), "mine", "digits", checkpoint_seconds=every, lease=60.0)


def table(job):
    with Store(Path(job.store)) as store:
        store.check()
        return to_csv(store.rows("mine"))


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.name != "posix" or os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a file system can be mounted by root only")
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    with open(place / "filler", "wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        while True:
            stream.write(bytes(256))


@pytest.mark.parametrize("seeds", ["apart", "together"])
def test_a_full_disk_is_said_and_freed_it_goes_on(small_disk, tmp_path, seeds):
    job = prepared(small_disk / "store", tmp_path, seeds=seeds)
    asked = iter(range(1000))
    work(job, lambda: next(asked) >= 5)
    fill(small_disk)
    with pytest.raises(UsageError, match=r"the disk that holds .*store.* is full; free some space"):
        work(job)
    (small_disk / "filler").unlink()
    with Store(Path(job.store)) as store:
        assert store.progress("mine")[0]["quarantined"] == store.progress("mine")[0]["failed"] == 0
    work(job)
    undisturbed = prepared(tmp_path / "undisturbed", tmp_path, seeds=seeds, every=1e9)
    work(undisturbed)
    assert table(job) == table(undisturbed)
    assert list((small_disk / "store" / "checkpoints").iterdir()) == []


_STARVED = """
import resource, sys
from pathlib import Path
from verify.training.worker import Job, main
from verify.threads import one_thread
import torch
with one_thread():
    torch.ones(64, 64) @ torch.ones(64, 64)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2**20,) * 2)
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
def test_a_trial_without_memory_says_its_size_and_the_rest_goes_on(tmp_path):
    text = TEXT.replace("widths = [8]", "widths = [20000, 8]").replace("depths = [1]", "depths = [2]")
    job = prepared(tmp_path / "store", tmp_path, text.replace("[0, 1]", "[0]"), every=1e9)
    words = [sys.executable, "-c", _STARVED, job.to_json()]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    with Store(Path(job.store)) as store:
        large, small = store.rows("mine")
    assert (large.state, large.failures, small.state) == ("quarantined", 3, "done")
    assert (
        large.error.startswith("out of memory (requested ") and "at width 20000, depth 2, batch_size 32" in large.error
    )
    assert large.error.endswith("use fewer --workers, a smaller batch_size or a smaller width")


def test_a_clock_that_jumps_changes_no_number(tmp_path, monkeypatch):
    """Each reading of the clock jumps days forward or back: leases end too early or far too late."""
    chance, real = random.Random(0), time.time
    job = prepared(tmp_path / "store", tmp_path, every=1e9)
    undisturbed = prepared(tmp_path / "undisturbed", tmp_path, every=1e9)
    work(undisturbed)
    monkeypatch.setattr("verify.training.worker.HEARTBEAT_SECONDS", 0.0)
    clock = lambda: real() + chance.uniform(-1e5, 1e5)  # noqa: E731
    monkeypatch.setattr("verify.training.worker.Store", lambda path, lease: Store(path, lease=lease, clock=clock))
    work(job)
    assert table(job) == table(undisturbed)


def test_leases_when_the_clock_was_moved(tmp_path):
    now = [1e9]
    path = Path(prepared(tmp_path / "store", tmp_path).store)
    with Store(path, clock=lambda: now[0]) as mine, Store(path, clock=lambda: now[0]) as other:
        other.owner = "elsewhere|1|1"
        first, second = mine.claim("mine"), other.claim("mine")
        now[0] -= 86_400.0
        assert mine.claim("mine") is None, "nobody's lease has run out"
        other.heartbeat(second.id, 3)
        now[0] += 120.0
        assert mine.claim("mine").id == second.id, "a heartbeat counts from the clock as it is now"
        now[0] += 86_400.0
        assert other.claim("mine").id in (first.id, second.id), "a jump ahead ends every lease"


def test_what_is_written_down_of_a_failure_is_plain(tmp_path):
    from verify.training.config import TrialConfig
    from verify.training.resource_errors import failure

    configs = [TrialConfig("none", 0.1, seed=seed) for seed in (0, 1)]
    assert "2 seeds as one stack; use fewer --workers, --seeds apart," in failure(MemoryError(), configs)
    assert failure(ValueError("no"), configs) == "ValueError: no"
    problem = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3200 bytes. Error")
    assert failure(problem, configs[:1]).startswith("out of memory (requested 3200 bytes) at width 64, depth 2,")
