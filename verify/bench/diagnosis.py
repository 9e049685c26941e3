"""Cost of a diagnosis in units of training steps: self factors, a full first step, and a watched optimiser.

    python -m verify.bench.diagnosis MODULE:FACTORY .. -o paper_notes/results

The factories are those of ``affdiv diagnose``. Times are CPU times on one thread, which other work on the machine
affects little, each divided by the CPU time of a plain training step (forward, backward, SGD) measured beside it. Freed
memory stays with the process, as in a long training run. The medians must stay below these bounds:

    time of self factors     training steps, each of them measured            1.3 steps
    memory of self factors   peak memory that such a step allocates (parameters and all earlier tensors not counted),
                             divided by that of a plain step                  1.5
    first step               ``verify.diagnose`` over one step, with shares   2.5 steps
    watched                  ten steps, one measured with its optimiser       1.15 times ten plain steps
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codegen.capture.loading import load
from verify.bench.launch import keep_the_heap
from verify.bench.memory import peak_of
from verify.bench.record import circumstances, write_json
from verify.diagnosis.batch import Work, arrange, run
from verify.diagnosis.factory import made
from verify.diagnosis.measure import diagnose
from verify.diagnosis.watch import Watch
from verify.threads import one_thread

BOUNDS = {"factors": 1.3, "factors_memory": 1.5, "first_step": 2.5, "watched": 1.15}
_PAIRS = 5
_EVERY = 10


def trained(model: nn.Module, work: Work, optimiser: torch.optim.Optimizer) -> Callable[[], float]:
    """Return a function that takes one training step (forward, backward, SGD) and returns its CPU seconds."""

    def _step() -> float:
        start = time.process_time()
        optimiser.zero_grad()
        run(work, model).backward()
        optimiser.step()
        return time.process_time() - start

    return _step


def measure(model: nn.Module, work: Work, pairs: int, given: tuple[Any, Any]) -> dict[str, Any]:
    """Return the cost ratios of a diagnosis to plain training steps, each as median, then quartiles."""
    keep_the_heap()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    step = trained(model, work, optimiser)

    def _watched(every: int, steps: int, optimiser: torch.optim.Optimizer | None) -> float:
        with Watch(model, every=every, optimizer=optimiser):
            return sum(step() for _ in range(steps))

    def _first_step() -> float:
        start = time.process_time()
        diagnose(model, *given, rate=1e-3)
        return time.process_time() - start

    for _ in range(2):
        _watched(1, 1, optimiser), step(), _first_step()
    plain: list[float] = []
    ratios: dict[str, list[float]] = {"factors": [], "first_step": [], "watched": []}
    for _ in range(pairs):
        plain += (beside := sorted(step() for _ in range(3)))
        ratios["factors"].append(_watched(1, 1, None) / beside[1])
        ratios["first_step"].append(_first_step() / beside[1])
        ratios["watched"].append(_watched(_EVERY, _EVERY, optimiser) / sum(step() for _ in range(_EVERY)))
    with Watch(model, every=1) as watch:
        step()
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": len(watch.readings[0].layers),
        "step_s": statistics.median(plain),
        "pairs": pairs,
        **{name: statistics.median(found) for name, found in ratios.items()},
        **{f"{name}_quartiles": statistics.quantiles(found, n=4)[::2] for name, found in ratios.items()},
        "factors_memory": _memory(model, step, optimiser),
    }


def _memory(model: nn.Module, step: Callable[[], float], optimiser: torch.optim.Optimizer) -> float:
    """Return the peak memory that a step with self factors allocates, divided by that of a plain step."""
    on_device = next(model.parameters()).is_cuda
    optimiser.zero_grad()
    plain = peak_of(step, on_device)
    with Watch(model, every=1):
        optimiser.zero_grad()
        return peak_of(step, on_device) / plain


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write diagnosis-cost.json with -o. Exit code 1 if a ratio exceeds its bound."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.diagnosis", description=__doc__.splitlines()[0])
    parser.add_argument("factories", nargs="+", metavar="MODULE:FACTORY", help="returns a model, a batch and a loss")
    parser.add_argument("-o", "--out", type=Path, help="folder for diagnosis-cost.json")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    figures = {}
    for words in given.factories:
        model, batch, loss, _ = made(load(words), words)
        name = words.rpartition(":")[2]
        with one_thread():
            row = figures[name] = measure(model, arrange(model, batch, loss), _PAIRS, (batch, loss))
        print(
            f"{name:18s} self factors {row['factors']:.3f} of a step in time, {row['factors_memory']:.3f} in memory; "
            f"first step {row['first_step']:.2f}; watched at every tenth {row['watched']:.3f}"
        )
    if given.out is not None:
        result = {"benchmark": "diagnosis-cost", "threads": 1, "bounds": BOUNDS, **circumstances(), "figures": figures}
        write_json(given.out / "diagnosis-cost.json", result)
    return 0 if all(row[name] <= bound for row in figures.values() for name, bound in BOUNDS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
