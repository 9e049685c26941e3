"""A process whose children work on an experiment and are killed; prints as JSON what became of each of them.

Run as ``python dying.py everywhere|anytime FILE.toml FOLDER SEEDS``. The children are forks, so that fifty of them cost
little: torch is loaded once. ``everywhere`` needs ``dying.c``, compiled and preloaded.
"""

import ctypes
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from verify.training.driver import register, tidy
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.store import Store
from verify.training.worker import Job, work

KILLS = 50


def prepare(file, folder, seeds):
    with Store(folder, create=True) as store:
        register(store, load_experiment(file), "digits", "cpu", seeds)
    return Job(str(folder), file.stem, "digits", checkpoint_seconds=0.0, lease=60.0)


def fork(job, armed=0):
    number = os.fork()
    if number == 0:
        code = 1
        try:
            if armed:
                ctypes.CDLL(None).arm(armed)
            work(job)
            code = 0
        finally:
            os._exit(code)
    return number


def was_killed(number):
    _, status = os.waitpid(number, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def processor_seconds(number):
    """What a child has computed, so that it gets as far on a busy machine as on a free one; infinite once it ended."""
    state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return float("inf") if state == "Z" else (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")


def table(job):
    with Store(Path(job.store)) as store:
        store.check()
        tidy(store)
        left = sorted(path.name for path in store.checkpoints.iterdir())
        return {"table": to_csv(store.rows(job.experiment)), "left": left}


def everywhere(file, folder, seeds):
    """Kill one worker at its first changing call, another at its second, ..., until one comes through."""
    results, call, killed = [], 1, True
    while killed:
        job = prepare(file, folder / str(call), seeds)
        killed = was_killed(fork(job, call))
        assert not was_killed(fork(job))
        results.append(table(job))
        call += 1
    return results


def anytime(file, folder, seeds):
    """Kill workers on one experiment after random times, fifty of them, then let one finish."""
    chance, job = random.Random(0), prepare(file, folder / "store", seeds)
    killed = 0
    while killed < KILLS:
        number = fork(job)
        end = chance.uniform(0.0, 0.15)
        while processor_seconds(number) < end:
            time.sleep(0.005)
        os.kill(number, signal.SIGKILL)
        killed += was_killed(number)
    assert not was_killed(fork(job))
    return [{**table(job), "killed": killed}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, file, folder, seeds = sys.argv[1:]
    work(prepare(Path(file), Path(folder) / "warm", seeds))  # what torch imports late is then there for every child
    print(json.dumps({"everywhere": everywhere, "anytime": anytime}[mode](Path(file), Path(folder), seeds)))
