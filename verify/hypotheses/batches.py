"""H4: how test accuracy changes with the batch size, in three readings of the same trials.

    best      each batch size at its best rate
    fixed     every batch size at the rate that is best for the smallest one
    linear    that rate scaled in proportion to the batch size, at the nearest rate of the grid

With equal epochs a larger batch takes fewer steps; with equal steps it sees more data. The trials determine which of
the two a statement is about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from verify.hypotheses.chosen import ACCURACY, Chosen, failures, ids, limits, methods_of, of, slope
from verify.hypotheses.finding import Finding, open_finding, tested
from verify.statistics import Effect, Region, Verdict

FLAT = 0.0025  # test accuracy per doubling of the batch within which a slope is called flat
FALLS, STAYS, RISES = "falls", "stays flat", "rises"
REGIONS = {FALLS: Region(high=0.0), STAYS: Region(-FLAT, FLAT), RISES: Region(low=0.0)}
EXPECTED = {"affine-like": FALLS, "norm-like": FALLS, "layer-norm": STAYS}
ABSENT = "no trials of one method differ in their batch size"
_SIZE = "batch_size"


@dataclass(frozen=True)
class Reading:
    """One way to choose the rate of each batch size; ``rate`` takes the settings of one method by batch size."""

    name: str
    says: str
    rate: Callable[[Mapping[int, Chosen], int], float | None]


def _best(by_size: Mapping[int, Chosen], size: int) -> float | None:
    return by_size[size].best.learning_rate


def _fixed(by_size: Mapping[int, Chosen], size: int) -> float | None:
    rate = by_size[min(by_size)].best.learning_rate
    return rate if rate in by_size[size].grid else None


def _linear(by_size: Mapping[int, Chosen], size: int) -> float | None:
    """Return the grid rate nearest to the linear one, None if that lies beyond the grid by more than half a step."""
    smallest = min(by_size)
    wanted = by_size[smallest].best.learning_rate * size / smallest
    grid = by_size[size].grid
    nearest = min(grid, key=lambda rate: abs(math.log(rate / wanted)))
    at_end = grid[0] > wanted or grid[-1] < wanted
    step = max((b / a for a, b in pairwise(grid)), default=1.0)
    return None if at_end and abs(math.log(nearest / wanted)) > math.log(step) / 2 else nearest


READINGS = (
    Reading("best", "the best rate at each batch size", _best),
    Reading("fixed", "the rate that is best at the smallest batch", _fixed),
    Reading("linear", "that rate scaled with the batch", _linear),
)


def judge(chosen: Sequence[Chosen]) -> list[Finding]:
    """Return a finding per method and reading, of which "best" decides; one open finding without batch sizes."""
    own = of(chosen, update="sgd")
    found = []
    for epochs in sorted({c.settings["epochs"] is not None for c in own}, reverse=True):
        regime = [c for c in own if (c.settings["epochs"] is not None) == epochs]
        if len({c.settings[_SIZE] for c in regime}) > 1:
            length = "equal epochs" if epochs else "equal steps"
            found += [
                _finding(of(regime, method=method), method, reading, length)
                for reading in READINGS
                for method in methods_of(regime)
            ]
    statement = "Accuracy falls with the batch size for corrected layers, and not for others."
    return found or [open_finding("H4", statement, _criterion(READINGS[0], FALLS), ABSENT)]


def _criterion(reading: Reading, expected: str) -> str:
    judged = {
        FALLS: "its 95 % interval below 0; contradicted where it lies above.",
        RISES: "its 95 % interval above 0; contradicted where it lies below.",
        STAYS: f"its 95 % interval within {FLAT:g} of 0; contradicted where it lies beyond.",
    }
    return (
        f"Slope of test accuracy on log2(batch size), {reading.says}, mean over networks, one number a seed: "
        + judged[expected]
    )


def _finding(chosen: Sequence[Chosen], method: str, reading: Reading, length: str) -> Finding:
    expected = EXPECTED.get(method, RISES)
    statement = f"Test accuracy of {method} {expected} with the batch size, at {length}, {reading.says}."
    criterion = _criterion(reading, expected)
    read, notes = read_at(chosen, reading)
    effect, detail = _slope(read), reading is not READINGS[0]
    if effect is None:
        reason = "; ".join([*notes, "fewer than two judging seeds with two batch sizes"])
        return open_finding("H4", statement, criterion, reason, detail)
    tuned = [c for c in read if reading is READINGS[0] or c.settings[_SIZE] == _smallest(read)]
    reason = "; ".join(filter(None, [limits(read, tuned=False), _edge(tuned)]))
    trials = ids(trial for c in read for trial in c.by_seed.values())
    remarks = "; ".join(filter(None, [*notes, failures(read)]))
    unit = "test accuracy per doubling of the batch"
    found = Finding("H4", statement, criterion, Verdict.INCONCLUSIVE, effect, reason, trials, unit, detail, remarks)
    return tested(found, REGIONS[expected])


def _smallest(chosen: Sequence[Chosen]) -> int:
    return min(c.settings[_SIZE] for c in chosen)


def _edge(chosen: Sequence[Chosen]) -> str:
    sizes = sorted({c.settings[_SIZE] for c in chosen if c.best.at_edge})
    words = ", ".join(map(str, sizes))
    return f"the best rate at batch size {words} is at the edge of its grid" if sizes else ""


def read_at(chosen: Sequence[Chosen], reading: Reading) -> tuple[list[Chosen], list[str]]:
    """Return the settings at the rates of a reading, and notes on them."""
    networks: dict[tuple[tuple[str, Any], ...], dict[int, Chosen]] = defaultdict(dict)
    for one in chosen:
        networks[one.key(_SIZE)][one.settings[_SIZE]] = one
    read, used, left = [], [], []
    for by_size in networks.values():
        for size, one in sorted(by_size.items()):
            rate = reading.rate(by_size, size)
            if rate is None:
                left.append(f"{size}")
                continue
            read.append(one.at(rate))
            used.append(f"{size}: {rate:g}")
    notes = [f"rates used (batch: rate) {', '.join(used)}"] if len(networks) == 1 else []
    notes += [f"left out, the rate lies beyond the grid: batch size {', '.join(left)}"] if left else []
    return read, notes


def _slope(read: Sequence[Chosen]) -> Effect | None:
    return slope(
        (seed, one.key(_SIZE), math.log2(one.settings[_SIZE]), trial[ACCURACY])
        for one in read
        for seed, trial in one.by_seed.items()
    )
