"""``affdiv bench --against FOLDER``: the generated layers against those of another generated package, launch by launch.

    shapes ──▶ our layer and the other's, with equal weights ──▶ alternating launches ──▶ median ratio with its interval

Use it to test a change of the generator against the package from before the change: the upper end of the interval
bounds how much slower the new code is. The interval of the median comes from order statistics, so it assumes no
distribution of the times. Launches run one after the other in one process, so they are not quite independent.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from scipy import stats
from torch import nn

import affine_divergence
from derive.errors import UsageError
from verify.bench.launch import Times, interleaved
from verify.bench.rows import PARTS
from verify.bench.shapes import LINEAR, Shape, feeds, memory_format
from verify.bench.speed import DTYPES, Progress, Request
from verify.checks.target import imported

SCHEMA = "affdiv.bench-against/1"
CONFIDENCE = 0.95
_LEAST_ROUNDS = {False: 20, True: 8}
_FORMS = ("affine-like", "norm-like")


@dataclass(frozen=True)
class Ratio:
    """The median over rounds of our time divided by the other's, with its ``CONFIDENCE`` interval."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], other: Sequence[float]) -> Ratio:
        """Return the ratio of two lists of times, one time per round; an interval needs at least six rounds."""
        ratios = sorted(a / b for a, b in zip(ours, other, strict=True))
        least = int(stats.binom.ppf((1 - CONFIDENCE) / 2, len(ratios), 0.5))
        low = max(0, least - 1)
        return cls(statistics.median(ratios), ratios[low], ratios[len(ratios) - 1 - low])


@dataclass(frozen=True)
class Row:
    """One map at one shape: ``ratio`` by pass, ``seconds`` our median time, ``rounds`` the launches of each side."""

    shape: str
    computes: str
    seconds: float
    rounds: int
    ratio: dict[str, Ratio]


@dataclass(frozen=True)
class Compared:
    """The comparison with the package in ``folder``."""

    folder: str
    device: str
    dtype: str
    seed: int
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data: the schema ``affdiv.bench-against/1`` without the machine and versions."""
        return {"schema": SCHEMA, **vars(self), "rows": [asdict(row) for row in self.rows]}


def compare(request: Request, folder: Path, progress: Progress) -> Compared:
    """Time both packages at every shape; UsageError for an invalid request or a folder without the layers."""
    request.check()
    other = imported(folder, "--against")
    missing = [name for name in ("AffineLike", "NormLike", "PatchNormConv2d") if not hasattr(other, name)]
    if missing:
        raise UsageError(
            f"--against {str(folder)!r} holds no {missing[0]}; name a package that `affdiv generate --out` wrote"
        )
    rows = [_measure(request, shape, form, other, progress) for shape in request.shapes for form in _FORMS]
    return Compared(str(folder), request.device, request.dtype, request.seed, tuple(rows))


def _measure(request: Request, shape: Shape, form: str, other: ModuleType, progress: Progress) -> Row:
    dtype = DTYPES[request.dtype]
    data = feeds(shape, request.device, dtype, request.seed)
    modules = []
    for package in (affine_divergence, other):
        torch.manual_seed(request.seed)
        module = _module(package, shape, form).to(device=request.device, dtype=dtype)
        if shape.kind != LINEAR:
            module.to(memory_format=memory_format(shape, request.device))  # type: ignore[call-overload]
        modules.append(module)
    words = f"{shape.text}: {form}"
    seconds = 0.0 if request.quick else request.seconds
    least, told = _LEAST_ROUNDS[request.quick], _told(progress, words)
    ours, theirs = interleaved(modules, data, request.device, seconds, least, told)
    ratio = {part: Ratio.of(ours.of(part), theirs.of(part)) for part in PARTS}
    return Row(shape.text, form, _seconds(ours), len(ours.forward), ratio)


def _module(package: ModuleType, shape: Shape, form: str) -> nn.Module:
    found: nn.Module
    if shape.kind == LINEAR:
        kind = package.AffineLike if form == "affine-like" else package.NormLike
        found = kind(shape.inputs, shape.outputs)
    else:
        found = package.PatchNormConv2d(shape.inputs, shape.outputs, shape.kernel, padding=shape.kernel // 2, form=form)
    return found


def _seconds(times: Times) -> float:
    return statistics.median(times.both)


def _told(progress: Progress, words: str) -> Callable[[float], None]:
    return lambda share: progress(words, share)


def print_compared(found: Compared) -> None:
    """Print one line for each map and shape: the time ratio of both passes, with its interval."""
    where = f"{found.device}, {found.dtype}"
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"ours against {found.folder}, forward and backward, {where}; below 1 is faster")
    width = max(len(row.shape) for row in found.rows)
    for row in found.rows:
        both = row.ratio["both"]
        interval = f"\\[{both.low:.3f}, {both.high:.3f}]"
        console.print(f"  {row.shape:<{width}}  {row.computes:<11}  {both.median:.3f} {interval}  {row.rounds} rounds")
