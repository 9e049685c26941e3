"""A process whose children work on an experiment and are killed; it prints the outcome of each as JSON.

Run as ``python dying.py everywhere|anytime|anyone FILE.toml FOLDER SEEDS``. The children are forks, so that fifty of
them cost little: torch is loaded once. ``everywhere`` needs ``dying.c``, compiled and preloaded.
"""

import ctypes
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from verify.training.driver import drive, register, tidy
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.store import Store
from verify.training.worker import Job, work

KILLS = 50


def prepare(file, folder, seeds):
    with Store(folder, create=True) as store:
        register(store, load_experiment(file), "digits", "cpu", seeds)
    return Job(str(folder), file.stem, "digits", checkpoint_seconds=0.0, lease=60.0)


def forked(what):
    """Run a function in a child process, without this process's exit handlers."""
    number = os.fork()
    if number == 0:
        code = 1
        try:
            what()
            code = 0
        finally:
            os._exit(code)
    return number


def fork(job, armed=0):
    def worker():
        if armed:
            ctypes.CDLL(None).arm(armed)
        work(job)

    return forked(worker)


def was_killed(number):
    _, status = os.waitpid(number, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def processor_seconds(number):
    """The CPU time of a child, which does not depend on the machine's load; infinite once it has ended."""
    state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return float("inf") if state == "Z" else (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK")


def table(job):
    with Store(Path(job.store)) as store:
        store.check()
        tidy(store)
        left = sorted(path.name for path in store.checkpoints.iterdir())
        return {"table": to_csv(store.rows(job.experiment)), "left": left}


def everywhere(file, folder, seeds):
    """Kill one worker at its first modifying system call, another at its second, ..., until one finishes."""
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
        assert was_killed(number), "the work was over before its time: give the experiment more steps"
        killed += 1
    assert not was_killed(fork(replace(job, checkpoint_seconds=60.0)))
    return [{**table(job), "killed": killed}]


class Forks:
    """The interface of an engine with forks for workers."""

    def capacity(self):
        return 2

    def start(self, job, workers):
        self.job = replace(job, parent=os.getpid())
        self.numbers = [self.spawn() for _ in range(workers)]

    def spawn(self):
        return forked(lambda: work(self.job, lambda: os.getppid() != self.job.parent))

    def tend(self):
        for place, number in enumerate(self.numbers):
            ended, status = os.waitpid(number, os.WNOHANG) if number else (0, 0)
            if ended:
                self.numbers[place] = self.spawn() if os.WIFSIGNALED(status) else 0
        return any(self.numbers)

    def stop(self):
        assert not any(self.numbers)


def drives(job):
    with Store(Path(job.store)) as store:
        drive(store, job, Forks(), 2, lambda done, total: None)


def children(number):
    """The ids of a process's child processes; empty if it has ended."""
    try:
        return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except OSError:
        return []


def anyone(file, folder, seeds):
    """Kill fifty times, by chance the driver or one of its workers, after random times; then let one driver finish."""
    chance, job = random.Random(0), prepare(file, folder / "store", seeds)
    killed, driver = {"driver": 0, "worker": 0}, forked(lambda: drives(job))
    end = chance.uniform(0.0, 0.1)
    while sum(killed.values()) < KILLS:
        workers = children(driver)
        if not workers or max(map(processor_seconds, workers)) < end:
            time.sleep(0.005)
            assert os.waitpid(driver, os.WNOHANG) == (0, 0), "it came to its end before it was killed often enough"
            continue
        end = chance.uniform(0.0, 0.1)
        if chance.random() < 0.5:
            os.kill(driver, signal.SIGKILL)
            killed["driver"] += was_killed(driver)
            driver = forked(lambda: drives(job))
        else:
            os.kill(chance.choice(workers), signal.SIGKILL)
            killed["worker"] += 1
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    assert not was_killed(fork(replace(job, checkpoint_seconds=1e9)))
    return [{**table(job), **killed}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, file, folder, seeds = sys.argv[1:]
    work(
        replace(prepare(Path(file), Path(folder) / "warm", seeds), checkpoint_seconds=1e9)
    )  # loads torch's late imports once, for all children
    print(
        json.dumps(
            {"everywhere": everywhere, "anytime": anytime, "anyone": anyone}[mode](Path(file), Path(folder), seeds)
        )
    )
