"""What a diagnosis costs, in training steps: self factors, whole first steps, and a watched optimiser.

    python -m verify.bench.diagnosis MODULE:FACTORY .. -o paper_notes/results

The factories are those of ``affdiv diagnose``. Each pair of steps, with self factors and without, in turn, gives one
ratio, of processor time on one thread, to which other work on the machine adds little; the median is held against the
bound. So are a diagnosis of one step, and ten steps of which one is watched with its optimiser, over the median step.
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

from verify.bench.record import circumstances, write_json
from verify.diagnosis.batch import Work, arrange, run
from verify.diagnosis.factory import load, made
from verify.diagnosis.measure import diagnose
from verify.diagnosis.watch import Watch
from verify.threads import one_thread

BOUND = 1.3
FIRST_STEP_BOUND, WATCHED_BOUND = 2.5, 1.15
_PAIRS = 9


def trained(model: nn.Module, work: Work, optimiser: torch.optim.Optimizer) -> Callable[[], float]:
    """Return one training step (forward, backward, SGD) as a function that returns its processor seconds."""

    def _step() -> float:
        start = time.process_time()
        optimiser.zero_grad()
        run(work, model).backward()
        optimiser.step()
        return time.process_time() - start

    return _step


def measure(model: nn.Module, work: Work, pairs: int, given: tuple[Any, Any]) -> dict[str, Any]:
    """Measure pairs of steps, with self factors and without; return medians of both and of their ratios."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    step = trained(model, work, optimiser)
    plain, watched, ratios = [], [], []
    layers = 0
    for number in range(pairs + 2):
        with Watch(model, every=1) as watch:
            with_factors = step()
        without = step()
        layers = len(watch.readings[0].layers)
        if number >= 2:
            plain.append(without)
            watched.append(with_factors)
            ratios.append(with_factors / without)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": layers,
        "step_s": statistics.median(plain),
        "step_with_self_factors_s": statistics.median(watched),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "pairs": pairs,
        "bound": BOUND,
        **_whole_steps(model, given, step, optimiser, statistics.median(plain)),
    }


def _whole_steps(
    model: nn.Module, given: tuple[Any, Any], step: Callable[[], float], optimiser: torch.optim.Optimizer, plain: float
) -> dict[str, Any]:
    """Return what a diagnosis of one step costs, and ten steps of which one is watched with its optimiser."""
    diagnose(model, *given, rate=1e-3)
    start = time.process_time()
    diagnose(model, *given, rate=1e-3)
    first_step = (time.process_time() - start) / plain
    with Watch(model, every=10, optimizer=optimiser):
        watched = sum(step() for _ in range(20)) / 20 / plain
    return {
        "first_step_ratio": first_step,
        "first_step_bound": FIRST_STEP_BOUND,
        "watched_ratio": watched,
        "watched_bound": WATCHED_BOUND,
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write diagnosis-cost.json with -o. Exit code 1 where a ratio is above its bound."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.diagnosis", description=__doc__.splitlines()[0])
    parser.add_argument("factories", nargs="+", metavar="MODULE:FACTORY", help="what makes a model, a batch and a loss")
    parser.add_argument("-o", "--out", type=Path, help="folder for diagnosis-cost.json")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    figures = {}
    for words in given.factories:
        model, batch, loss, _ = made(load(words), words)
        name = words.rpartition(":")[2]
        with one_thread():
            row = figures[name] = measure(model, arrange(model, batch, loss), _PAIRS, (batch, loss))
        low, high = row["ratio_quartiles"]
        print(
            f"{name:14s} {row['ratio']:.3f} of a step without ({low:.3f} .. {high:.3f}), {row['layers']} layers; "
            f"a diagnosis {row['first_step_ratio']:.1f} steps, watched at every tenth {row['watched_ratio']:.3f}"
        )
    if given.out is not None:
        result = {"benchmark": "diagnosis-cost", "threads": 1, **circumstances(), "figures": figures}
        write_json(given.out / "diagnosis-cost.json", result)
    return 0 if all(_within(row) for row in figures.values()) else 1


def _within(row: dict[str, Any]) -> bool:
    """Whether every ratio is at most its bound."""
    pairs = (("ratio", "bound"), ("first_step_ratio", "first_step_bound"), ("watched_ratio", "watched_bound"))
    return all(row[ratio] <= row[bound] for ratio, bound in pairs)


if __name__ == "__main__":
    sys.exit(main())
