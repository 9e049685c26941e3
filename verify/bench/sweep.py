"""Speed of a sweep of small networks, in trial-steps per second, against a plain PyTorch loop over the same trials.

    python -m verify.bench.sweep -o paper_notes/results
    python -m verify.bench.sweep --device cuda -o paper_notes/results

Three sides run in turn, each on the same number of processes with one thread: the plain loop; our worker on trials that
train one by one; our worker on teams (the seeds of a configuration trained as one stacked network). A side lasts until
its last process has ended. Our sides do everything that a sweep does (claims, heartbeats, loss checks, evaluation at
the beginning and the end, writing results); the plain loop trains, and evaluates the test split at the end. Processes
start before the clock does, and the first round, in which teams record their graph, is reported separately. The ratio
that must reach the bound is of CPU time on the CPU, which other work on the machine affects little, and of elapsed time
on a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from verify.bench.record import circumstances, write_json
from verify.checks.runner import NO_CUDA
from verify.training.config import TrialConfig
from verify.training.data import Dataset, load
from verify.training.driver import register
from verify.training.experiment import Experiment
from verify.training.seed_stacks import MOST_MEMBERS
from verify.training.store import Store
from verify.training.trial import steps_of
from verify.training.worker import Job, work

BOUND = 3.0  # teams must reach this many times the plain loop's speed
SIDES = ("plain", "apart", "together")
_RATES = (0.03, 0.1)


@dataclass(frozen=True)
class Request:
    """What to measure: the seeds at each of two learning rates, the processes and the rounds."""

    dtype: str
    device: str
    seeds: int
    workers: int
    rounds: int
    epochs: int = 10

    def trials(self) -> tuple[TrialConfig, ...]:
        """Return the trials: an MLP 64-64-64-10 on the digits, trained by plain gradient descent."""
        base = TrialConfig("none", 0.1, dtype=self.dtype, device=self.device, epochs=self.epochs, evaluate_every=0)
        return tuple(replace(base, learning_rate=r, seed=s) for r in _RATES for s in range(self.seeds))


def plain_trial(config: TrialConfig, data: Dataset) -> float:
    """Train one network with a straightforward loop, and return its accuracy on the test split."""
    torch.manual_seed(config.seed)
    sizes = (data.features, *[config.width] * config.depth, data.classes)
    layers = [module for n, m in pairwise(sizes) for module in (nn.Linear(n, m), nn.Tanh())]
    model = nn.Sequential(*layers[:-1]).to(config.device, config.torch_dtype)
    optimiser = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    x, y = data.train.x, data.train.y
    for _ in range(config.epochs or 0):
        order = torch.randperm(len(y), device=y.device)
        for start in range(0, len(y) - config.batch_size + 1, config.batch_size):
            rows = order[start : start + config.batch_size]
            optimiser.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        return float((model(data.test.x).argmax(dim=1) == data.test.y).double().mean())


def measure(request: Request) -> dict[str, Any]:
    """Return each side's trial-steps per second (median, minimum and maximum over rounds), and its ratio to plain.

    Raise RuntimeError if one of the processes ends before it has measured.
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(request.workers), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_process, args=(request, Path(folder), place, barrier, results))
            for place in range(request.workers)
        ]
        for process in processes:
            process.start()
        seconds = _collected(processes, results)
        for process in processes:
            process.join()
    rounds = {side: list(zip(*(own[side] for own in seconds), strict=True)) for side in SIDES}
    elapsed = {side: [max(wall for wall, _ in runs) for runs in rounds[side]] for side in SIDES}
    busy = {side: [sum(processor for _, processor in runs) for runs in rounds[side]] for side in SIDES}
    return {**asdict(request), **_figures(request, elapsed, busy)}


def _collected(processes: Sequence[BaseProcess], results: Any) -> list[dict[str, list[tuple[float, float]]]]:
    """Return the measurements of every process; if one has died, end the others, which would wait for it forever."""
    found: list[dict[str, list[tuple[float, float]]]] = []
    while len(found) < len(processes):
        try:
            found.append(results.get(timeout=1.0))
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode]
            if dead:
                for process in processes:
                    process.terminate()
                raise RuntimeError(
                    f"a process of the benchmark ended with exit code {dead[0]}; its messages are above"
                ) from None
    return found


def _figures(request: Request, elapsed: dict[str, list[float]], busy: dict[str, list[float]]) -> dict[str, Any]:
    trials, samples = request.trials(), len(load("digits", 0).train)
    steps = len(trials) * steps_of(trials[0], samples)
    sides = {}
    for side in SIDES:
        first, *runs = elapsed[side]
        sides[side] = {
            "trial_steps_per_s": steps / statistics.median(runs),
            "least": steps / max(runs),
            "greatest": steps / min(runs),
            "first_round": steps / first,
            "trial_steps_per_processor_s": steps / statistics.median(busy[side][1:]),
            "ratio": _ratio(elapsed["plain"], elapsed[side]),
            "processor_ratio": _ratio(busy["plain"], busy[side]),
        }
    return {"trials": len(trials), "trial_steps": steps, "sides": sides}


def _ratio(plain: list[float], own: list[float]) -> float:
    """Return a side's speed over the plain loop's: the median over all rounds but the first."""
    return statistics.median(p / o for p, o in zip(plain[1:], own[1:], strict=True))


def _process(request: Request, folder: Path, place: int, barrier: Barrier, results: Any) -> None:
    """Run one process's share of every round of every side; put the seconds of each into a queue."""
    torch.set_num_threads(1)
    data = load("digits", 0, request.trials()[0].torch_dtype)
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for number in range(request.rounds + 1):
        for side in SIDES:
            todo = _share(request, folder / f"{side}-{number}", side, place, data)
            barrier.wait()
            start, busy = time.perf_counter(), time.process_time()
            todo()
            if request.device == "cuda":
                torch.cuda.synchronize()
            seconds[side].append((time.perf_counter() - start, time.process_time() - busy))
    results.put(seconds)


def _share(request: Request, folder: Path, side: str, place: int, data: Dataset) -> Callable[[], None]:
    """Return one process's share of the work of a side; the first process creates the store."""
    trials = request.trials()
    if side == "plain":
        own = data.to(request.device)

        def train() -> None:
            for config in trials[place :: request.workers]:
                plain_trial(config, own)

        return train
    if place == 0:
        with Store(folder, create=True) as store:
            register(store, Experiment("speed", "digits", trials), "digits", request.device, side)
    job = Job(str(folder), "speed", "digits", checkpoint_seconds=20.0, lease=60.0)
    return lambda: work(job)


def _above_zero(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write sweep-speed.json with -o. Exit code 1 if teams stay below the bound."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for sweep-speed.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--seeds", type=_above_zero, help="seeds per learning rate; default: a full team")
    parser.add_argument("--rounds", type=_above_zero, default=5)
    parser.add_argument("--workers", type=_above_zero, help="processes; default: two on the CPU, one on a GPU")
    parser.add_argument("--epochs", type=_above_zero, default=10)
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: {NO_CUDA}; use --device cpu")
    seeds, workers = given.seeds or MOST_MEMBERS[given.device], given.workers or (1 if given.device == "cuda" else 2)
    figures = {}
    for dtype in given.dtypes:
        row = figures[dtype] = measure(Request(dtype, given.device, seeds, workers, given.rounds, given.epochs))
        for side, speed in row["sides"].items():
            spread = f"{speed['least']:.0f} .. {speed['greatest']:.0f}"
            print(
                f"{dtype} {side:9s} {speed['trial_steps_per_s']:8.0f} trial-steps/s ({spread}), "
                f"{speed['ratio']:.2f} times plain, {speed['processor_ratio']:.2f} times by CPU time"
            )
    if given.out is not None:
        result = {"benchmark": "sweep-speed", "bound": BOUND, "threads": 1, **circumstances(), "figures": figures}
        if given.device == "cuda":
            result["device"]["gpu"] = torch.cuda.get_device_name()
        write_json(given.out / f"sweep-speed{'-cuda' * (given.device == 'cuda')}.json", result)
    judged = "ratio" if given.device == "cuda" else "processor_ratio"
    return 0 if all(row["sides"]["together"][judged] >= BOUND for row in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
