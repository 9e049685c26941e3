"""Measure at which sizes training a stack of seeds is faster than one seed at a time, and write the rule for sweeps.

    python -m verify.bench.seed_stacking -o verify/training/seed_stacking.json

A team is a set of seeds trained as one stacked network. Both sides take the same steps in turn in one process, on one
thread; the ratio is of CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from verify.bench.record import circumstances, write_json
from verify.threads import one_thread
from verify.training.config import TrialConfig, generator
from verify.training.dataset import Dataset, Split
from verify.training.seed_stacking import TeamRun
from verify.training.seed_stacks import products
from verify.training.trial import TrialRun

WIDTHS, BATCHES, MEMBERS, METHODS = (16, 64, 256, 512), (32, 256), (2, 8), ("none", "affine-like")
MARGIN = 1.1  # a team must be faster by this factor; about equal, the seeds train one by one
_FEATURES, _CLASSES, _ROUNDS = 256, 10, 3


def compare(config: TrialConfig, members: int) -> dict[str, Any]:
    """Return the CPU seconds of a step trained apart and together, and of a team's one-off work."""
    data = _data(config)
    configs = [replace(config, seed=seed) for seed in range(members)]
    alone = TrialRun(configs[0], data)
    team = TeamRun(configs, [data] * len(configs), [one.digest for one in configs], "measured")
    alone.advance()
    once = _seconds(lambda: team.advance())
    apart, together = [], []
    for _ in range(_ROUNDS):
        apart.append(_seconds(lambda: [alone.advance() for _ in range(2 * members)]) / (2 * members))
        together.append(_seconds(lambda: [team.advance() for _ in range(8)]) / (8 * members))
    return {
        "method": config.method,
        "width": config.width,
        "batch_size": config.batch_size,
        "members": members,
        "products": products(config, _FEATURES, _CLASSES),
        "apart_s": statistics.median(apart),
        "together_s": statistics.median(together),
        "once_s": max(0.0, once - members * statistics.median(together)),
    }


def limits(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return when a team pays: up to ``most_products`` products per step, from ``least_steps`` steps of all members on.

    Up to that many products every measured team was faster by ``MARGIN``; after that many steps every such team had
    recovered its one-off work.
    """
    slower = [row["products"] for row in rows if row["apart_s"] < MARGIN * row["together_s"]]
    faster = [row for row in rows if not slower or row["products"] < min(slower)]
    steps = [row["once_s"] / (row["apart_s"] - row["together_s"]) for row in faster]
    return {
        "most_products": max((row["products"] for row in faster), default=0),
        "least_steps": round(max(steps, default=0.0)),
    }


def _data(config: TrialConfig) -> Dataset:
    count = 4 * config.batch_size
    x = torch.randn(count, _FEATURES, dtype=config.torch_dtype, generator=generator("measured"))
    part = Split(x, torch.arange(count) % _CLASSES)
    return Dataset("measured", _CLASSES, part, part.first(8), part.first(8), "")


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(arguments: list[str] | None = None) -> int:
    """Measure every shape; with -o, write the measurements and the rule."""
    parser = argparse.ArgumentParser(prog="python -m verify.bench.seed_stacking", description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, help="the file for the rule, verify/training/seed_stacking.json")
    out: Path | None = parser.parse_args(arguments).out
    rows = []
    with one_thread():
        for batch in BATCHES:
            for width in WIDTHS:
                for method in METHODS:
                    base = TrialConfig(method, 1e-3, width=width, batch_size=batch, epochs=None, steps=10**6)
                    rows += [compare(replace(base, evaluate_every=0), members) for members in MEMBERS]
                    for row in rows[-len(MEMBERS) :]:
                        ratio = row["apart_s"] / row["together_s"]
                        print(f"{method:12s} {width:4d} {batch:4d} x{row['members']}: {ratio:.2f} times as fast")
    rule = limits(rows)
    print(rule)
    if out is not None:
        result = {"benchmark": "together", "threads": 1, **circumstances(), "limits": rule, "rows": rows}
        write_json(out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
