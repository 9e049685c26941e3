"""``affdiv bench --suite growth``: the time of both passes as one size grows, against the roofline limit.

    limit = products / peak + traffic / bandwidth

Products counts the operations of the three matrix products. Traffic is the minimum memory that both passes must read
and write: input, weights, output and the gradients with respect to all three. Peak and bandwidth are measured in the
same run, with the same number of threads. The time of an efficient layer grows in proportion to the limit: the slope of
log time against log limit tends to 1 once call overhead is negligible. A cliff is a sudden rise of the time.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice, pairwise
from typing import Any

import torch
from torch import nn

import affine_divergence as ad
from verify.bench.launch import interleaved
from verify.bench.limits import Limits, measure_limits
from verify.bench.shapes import feeds_of, seeded
from verify.bench.speed import Progress
from verify.threads import so_many_threads

SCHEMA = "affdiv.bench-growth/1"
CLIFF = 2.0  # from one size to the next, a time may grow at most this many times faster than its limit
_LEAST_ROUNDS = 7
_BYTES = 4  # of a float32
_TAIL = 3  # the slope is fitted over this many of the largest sizes


@dataclass(frozen=True)
class Case:
    """One point of a curve: what grows, its size, the layers to launch, and the least work of both passes."""

    curve: str
    axis: str
    size: int
    torchs: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    operations: float
    traffic: float
    threads: int = 0

    def limit(self, limits: Limits) -> float:
        """Return the roofline limit of both passes, in seconds."""
        return self.operations / limits.product_operations + self.traffic / limits.copy_bytes


@dataclass(frozen=True)
class GrowthRow:
    """A measured point: median times of both passes of torch's layer and ours, and the limit, all in seconds."""

    curve: str
    axis: str
    size: int
    threads: int
    rounds: int
    torchs: float
    ours: float
    limit: float


@dataclass(frozen=True)
class Curve:
    """The judgement of a curve: its slope of log time against log limit at the largest sizes, and its steepest step.

    A step is the growth of the time over the growth of the limit from one size to the next: 1 if both grow alike.
    """

    name: str
    axis: str
    slope: float
    step: float
    at: int

    @property
    def cliff(self) -> bool:
        """Whether the steepest step exceeds ``CLIFF``."""
        return self.step > CLIFF


@dataclass(frozen=True)
class Growth:
    """A run: the rows grouped by curve, in increasing order of size."""

    device: str
    seed: int
    limits: tuple[tuple[int, Limits], ...]
    rows: tuple[GrowthRow, ...]

    @property
    def by_curve(self) -> dict[tuple[str, str], list[GrowthRow]]:
        """The rows of each curve in order, keyed by the curve's name and what grows."""
        return {key: list(rows) for key, rows in groupby(self.rows, key=lambda row: (row.curve, row.axis))}

    @property
    def curves(self) -> list[Curve]:
        """The judged curves, in order; curves over threads are left out, since threads do not change the work."""
        return [curve(rows, *key) for key, rows in self.by_curve.items() if key[1] != "threads"]

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data: the schema ``affdiv.bench-growth/1`` without the machine and versions."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "seed": self.seed,
            "limits": [{"threads": count, **asdict(limits)} for count, limits in self.limits],
            "rows": [asdict(row) for row in self.rows],
            "curves": [{**asdict(found), "cliff": found.cliff} for found in self.curves],
        }


def curve(rows: list[GrowthRow], name: str, axis: str) -> Curve:
    """Return the judgement of one curve."""
    steps = [((b.ours / a.ours) / (b.limit / a.limit), b.size) for a, b in pairwise(rows)]
    step, at = max(steps)
    tail = rows[-_TAIL:]
    slope = statistics.linear_regression([math.log(r.limit) for r in tail], [math.log(r.ours) for r in tail]).slope
    return Curve(name, axis, slope, step, at)


def measure_growth(device: str, seconds: float, seed: int, progress: Progress, most: int = 0) -> Growth:
    """Measure every curve, with ``seconds`` of launches per point; curves over threads only on a CPU.

    ``most`` limits each curve to its first points, for a trial run; 0 measures all.
    """
    threads = torch.get_num_threads()
    points = [case for case in cases(os.cpu_count() or 1) if device == "cpu" or not case.threads]
    if most:
        by_curve = groupby(points, key=lambda case: case.curve)
        points = [case for _, points_of in by_curve for case in islice(points_of, most)]
    known: dict[int, Limits] = {}
    rows = []
    for number, case in enumerate(points):
        count = case.threads or threads
        with so_many_threads(count):
            if count not in known:
                known[count] = measure_limits(device, torch.float32, bool(most))

            def told(share: float, name: str = f"{case.curve}, {case.axis} {case.size}", done: int = number) -> None:
                progress(name, (done + share) / len(points))

            rows.append(_measured(case, device, seconds, seed, known[count], told))
    return Growth(device, seed, tuple(known.items()), tuple(rows))


def _measured(
    case: Case, device: str, seconds: float, seed: int, limits: Limits, progress: Callable[[float], None]
) -> GrowthRow:
    modules = seeded((case.torchs, case.ours), device, torch.float32, seed)
    feeds = feeds_of(modules[0], case.input_shape, device, torch.float32, seed)
    plain, ours = interleaved(modules, feeds, device, seconds, _LEAST_ROUNDS, progress)
    return GrowthRow(
        curve=case.curve,
        axis=case.axis,
        size=case.size,
        threads=torch.get_num_threads(),
        rounds=len(ours.both),
        torchs=statistics.median(plain.both),
        ours=statistics.median(ours.both),
        limit=case.limit(limits),
    )


def cases(cores: int) -> list[Case]:
    """Return the points of every curve: over batch, width, channels, filter size, and threads up to ``cores``."""
    return [*_linear(), *_images(), *_depthwise(), *_threads(cores)]


def _linear() -> Iterator[Case]:
    for batch in (16, 64, 256, 1024, 4096):
        yield _rows("linear 512 to 512", "batch", batch, batch, 512)
    for width in (64, 128, 256, 512, 1024, 2048):
        yield _rows("linear, batch 512", "width", width, 512, width)


def _images() -> Iterator[Case]:
    for batch in (1, 4, 16, 64):
        yield _patches("3 x 3, 32 to 32, 32 x 32", "batch", batch, (batch, 32, 32), 3)
    for channels in (8, 16, 32, 64, 128, 256):
        yield _patches("3 x 3, 16 x 16, batch 8", "channels", channels, (8, channels, 16), 3)
    for kernel in (1, 3, 5, 7, 9, 11):
        yield _patches("32 to 32, 32 x 32, batch 4", "kernel", kernel, (4, 32, 32), kernel)


def _depthwise() -> Iterator[Case]:
    for channels in (32, 64, 128, 256, 512):
        yield _patches("depthwise 3 x 3, 32 x 32, batch 4", "channels", channels, (4, channels, 32), 3, channels)
    for kernel in (3, 5, 7, 9, 11):
        yield _patches("depthwise 64, 32 x 32, batch 8", "kernel", kernel, (8, 64, 32), kernel, 64)


def _threads(cores: int) -> Iterator[Case]:
    counts = [2**k for k in range(cores.bit_length()) if 2**k <= cores]
    for count in counts:
        yield _rows("linear 2048 x 512 x 512", "threads", count, 2048, 512, count)
    for count in counts:
        yield _patches("3 x 3, 64 to 64, 32 x 32, batch 8", "threads", count, (8, 64, 32), 3, threads=count)


def _rows(name: str, axis: str, size: int, batch: int, width: int, threads: int = 0) -> Case:
    """Return a linear layer with as many outputs as inputs."""
    numbers = 5 * batch * width + 3 * width**2  # x, z, g, x again, dx; W twice, dW
    return Case(
        curve=name,
        axis=axis,
        size=size,
        torchs=lambda: nn.Linear(width, width),
        ours=lambda: ad.AffineLike(width, width),
        input_shape=(batch, width),
        operations=6.0 * batch * width**2,
        traffic=float(_BYTES * numbers),
        threads=threads,
    )


def _patches(
    name: str, axis: str, size: int, images: tuple[int, int, int], kernel: int, groups: int = 1, threads: int = 0
) -> Case:
    """Return a convolution of square images (batch, channels, length) that preserves their shape."""
    batch, channels, length = images
    weights = channels * channels // groups * kernel**2
    places = batch * channels * length**2
    return Case(
        curve=name,
        axis=axis,
        size=size,
        torchs=lambda: nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups),
        ours=lambda: ad.PatchNormConv2d(channels, channels, kernel, padding=kernel // 2, groups=groups),
        input_shape=(batch, channels, length, length),
        operations=6.0 * batch * length**2 * weights,
        traffic=float(_BYTES * (5 * places + 3 * weights)),
        threads=threads,
    )
