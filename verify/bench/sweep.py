"""Speed of a sweep of small networks, in trials' steps a second, against a plain loop in PyTorch over the same trials.

    python -m verify.bench.sweep -o paper_notes/results
    python -m verify.bench.sweep --device cuda -o paper_notes/results

Three sides in turn, each on as many processes, one thread a process: the plain loop; our worker on a store of trials
that train apart; our worker on a store of teams. A side lasts until its last process has ended. Our sides hold
everything that a sweep does (claims, heartbeats, losses looked at, parts evaluated at the beginning and the end,
results written), the plain loop trains and evaluates the test part at the end. Processes start before time is taken,
and a first round, in which teams record their graph, is reported apart. The ratio that is held against the bound is
that of processor time on the CPU, to which other work on the machine adds little, and that of elapsed time on a GPU.
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

BOUND = 3.0  # what teams are to be worth, in plain loops
SIDES = ("plain", "apart", "together")
_RATES = (0.03, 0.1)


@dataclass(frozen=True)
class Request:
    """What is measured: so many seeds at each of two rates, on so many processes, so often."""

    dtype: str
    device: str
    seeds: int
    workers: int
    rounds: int
    epochs: int = 10

    def trials(self) -> tuple[TrialConfig, ...]:
        """Return the trials: an MLP of 64 - 64 - 64 - 10 on the digits, by plain gradient descent."""
        base = TrialConfig("none", 0.1, dtype=self.dtype, device=self.device, epochs=self.epochs, evaluate_every=0)
        return tuple(replace(base, learning_rate=r, seed=s) for r in _RATES for s in range(self.seeds))


def plain_trial(config: TrialConfig, data: Dataset) -> float:
    """Train one network as one would write it down, and return its accuracy on the test part."""
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
    """Return for each side its trial-steps a second, with least and greatest of the rounds, and the ratios to plain.

    Raise RuntimeError where a process that takes part ends before it has measured.
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
    """Return what every process has measured; where one of them has died, end the others, which wait for it."""
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
                    f"a process of the benchmark ended with code {dead[0]}; what it said is above"
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
    """Return how many times the plain loop's speed a side has: the median over all rounds but the first."""
    return statistics.median(p / o for p, o in zip(plain[1:], own[1:], strict=True))


def _process(request: Request, folder: Path, place: int, barrier: Barrier, results: Any) -> None:
    """Take part in every round of every side; put the seconds that each took into a queue."""
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
    """Return what one process does of a side; the first process makes the store."""
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
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write sweep-speed.json with -o. Exit code 1 where teams are worth less than the bound."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="folder for sweep-speed.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--seeds", type=_above_zero, help="of each rate; a whole team if not given")
    parser.add_argument("--rounds", type=_above_zero, default=5)
    parser.add_argument("--workers", type=_above_zero, help="processes; two on the CPU, one on a GPU if not given")
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
                f"{speed['ratio']:.2f} of plain, {speed['processor_ratio']:.2f} by processor time"
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
