"""Cost of probing a network: probes and the training steps between them, timed in turn in one process.

    python -m verify.bench.probe [EXPERIMENT ..] [--scale paper --data PATH] -o paper_notes/results

Takes the smallest network of every method in each bundled experiment that probes, on the experiment's data. The ratio
is the CPU time of all probes of a trial, including those before the first and after the last step, over the CPU time of
its steps. Probing is relatively most expensive for the smallest network, where fixed costs dominate. Each round
measures the cost of a probe in steps; the median over rounds gives the ratio that is compared with the bound.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from verify.bench.record import circumstances, write_json
from verify.threads import one_thread
from verify.training.cli import BUNDLED
from verify.training.config import TrialConfig
from verify.training.dataset import Dataset
from verify.training.experiment import SCALES, load_experiment
from verify.training.trial import TrialRun, steps_of
from verify.training.worker import data_of

BOUND = 0.10
_ROUNDS = 15
_STEPS = 20  # timed in each round; a trial takes more steps between two probes


def measure(config: TrialConfig, data: Dataset, rounds: int) -> dict[str, Any]:
    """Time rounds of some steps and one probe; return both medians and the ratio of all probes to all steps."""
    total = steps_of(config, len(data.train))
    count = 1 + math.ceil(total / config.probe_every)
    endless = replace(config, epochs=None, steps=(rounds + 2) * _STEPS, evaluate_every=0, probe_every=10**9)
    run = TrialRun(endless, data)
    steps, probes = [], []
    for number in range(rounds + 1):
        start = time.process_time()
        for _ in range(_STEPS):
            run.advance()
        middle = time.process_time()
        run.look()
        if number:
            steps.append((middle - start) / _STEPS)
            probes.append(time.process_time() - middle)
    each = [probe / step for probe, step in zip(probes, steps, strict=True)]
    return {
        "width": config.width,
        "depth": config.depth,
        "batch_size": config.batch_size,
        "step_s": statistics.median(steps),
        "probe_s": statistics.median(probes),
        "steps_a_probe": statistics.median(each),
        "probe_every": config.probe_every,
        "probes": count,
        "steps": total,
        "ratio": count * statistics.median(each) / total,
        "bound": BOUND,
    }


def cheapest(trials: Sequence[TrialConfig]) -> list[TrialConfig]:
    """Return, for every method, the trial with the cheapest step."""
    ordered = sorted(trials, key=lambda trial: (trial.update != "sgd", trial.width, trial.depth, trial.batch_size))
    return list({trial.method: trial for trial in reversed(ordered)}.values())[::-1]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; write probe-cost-SCALE.json with -o. Exit code 1 if a ratio exceeds the bound."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.probe", description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help="names of bundled experiments; all that probe if none is given")
    parser.add_argument("-o", "--out", type=Path, help="folder for probe-cost-SCALE.json")
    parser.add_argument("--scale", choices=SCALES, default=SCALES[0], help="the scale of the experiments")
    parser.add_argument("--data", help="the data to train on, for experiments that name none")
    given = parser.parse_args(arguments)
    figures: dict[str, dict[str, Any]] = {}
    for path in sorted(BUNDLED.glob("*.toml")):
        found = load_experiment(path, scale=given.scale)
        if not found.trials[0].probe_every or (given.experiments and found.name not in given.experiments):
            continue
        for config in cheapest(found.trials):
            with one_thread():
                row = measure(config, data_of(config, given.data or found.data), _ROUNDS)
            figures.setdefault(found.name, {})[config.method] = row
            print(
                f"{found.name:16s} {config.method:14s} +{row['ratio']:6.1%} for {row['probes']} probes in "
                f"{row['steps']} steps, each worth {row['steps_a_probe']:.1f} of them"
            )
    if given.out is not None:
        result = {"benchmark": "probe-cost", "scale": given.scale, "threads": 1, **circumstances(), "figures": figures}
        write_json(given.out / f"probe-cost-{given.scale}.json", result)
    return 0 if all(row["ratio"] <= BOUND for rows in figures.values() for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
