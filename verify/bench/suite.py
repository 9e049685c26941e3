"""``affdiv bench --suite quick|full``: our layer of every kind against torch's with a normaliser, in one table.

    cases ──▶ torch's layer, the baseline, ours; eager and compiled ──▶ alternating launches ──▶ ratios, intervals,
    verdict

The baseline (``peer`` in the results) is torch's layer with a normaliser. The verdict of a row compares ours with the
baseline, launch by launch: ``ahead`` if the interval of the median ratio lies below 1, ``behind`` if it lies above,
``level`` if it contains 1. Beside it are the ratios of both to torch's layer without a normaliser.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from verify.bench.against import Ratio
from verify.bench.compiled import compiled
from verify.bench.launch import Times, interleaved
from verify.bench.limits import Limits, measure_limits
from verify.bench.memory import peak_bytes, saved_bytes
from verify.bench.shapes import Feed, feeds_of, seeded
from verify.bench.speed import DTYPES, Progress
from verify.bench.suite_cases import FULL, GROWTH, QUICK, Case, cases

SCHEMA = "affdiv.bench-suite/1"
SECONDS = {QUICK: 4.0, FULL: 10.0, GROWTH: 1.5}
AHEAD, LEVEL, BEHIND = "ahead", "level", "behind"
_LEAST_ROUNDS = 12


@dataclass(frozen=True)
class SuiteRow:
    """One case, eager or compiled.

    ``seconds`` is the median time of both passes of torch's layer; ``peer`` and ``ours`` are ratios to it, and
    ``verdict`` judges ``ours_to_peer``. ``saved`` and ``peak`` are bytes for torch's layer, the baseline and ours; None
    if compiled. If nothing was measured, ``missing`` says why and ``verdict`` is empty.
    """

    case: str
    dtype: str
    compiled: bool
    adds: str
    verdict: str = ""
    rounds: int = 0
    seconds: float = 0.0
    peer: Ratio | None = None
    ours: Ratio | None = None
    ours_to_peer: Ratio | None = None
    saved: tuple[int, ...] | None = None
    peak: tuple[int, ...] | None = None
    missing: str = ""


@dataclass(frozen=True)
class SuiteSpeed:
    """A run of a suite."""

    suite: str
    device: str
    seed: int
    limits: Limits
    rows: tuple[SuiteRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain data: the schema ``affdiv.bench-suite/1`` without the machine and versions."""
        plain = {"suite": self.suite, "device": self.device, "seed": self.seed, "limits": asdict(self.limits)}
        return {"schema": SCHEMA, **plain, "rows": [asdict(row) for row in self.rows]}


def verdict(ratio: Ratio) -> str:
    """Return the verdict from the interval of the ratio of ours to the baseline."""
    if ratio.high < 1:
        return AHEAD
    return BEHIND if ratio.low > 1 else LEVEL


def measure_suite(suite: str, device: str, seconds: float, seed: int, progress: Progress) -> SuiteSpeed:
    """Measure the cases of a suite, with ``seconds`` of launches each; the quick suite skips torch.compile."""
    limits = measure_limits(device, torch.float32, suite == QUICK)
    rows: list[SuiteRow] = []
    chosen = cases(suite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile warns about how it traces torch's layers
        for number, case in enumerate(chosen):
            told = partial(_told, progress, case.name, number, len(chosen))
            rows += _measured(case, device, seconds, seed, suite != QUICK, told)
    return SuiteSpeed(suite, device, seed, limits, tuple(rows))


def _told(progress: Progress, name: str, number: int, count: int, share: float) -> None:
    """Report the case that is being measured and the finished share of the suite."""
    progress(name, (number + share) / count)


def _measured(
    case: Case, device: str, seconds: float, seed: int, compiles: bool, progress: Callable[[float], None]
) -> list[SuiteRow]:
    """Return the row of a case and, with ``compiles``, that of its compiled modules; all are launched in turn."""
    torch.compiler.reset()  # else the next shape would compile to dynamic, slower code
    plain = _modules(case, device, seed)
    feeds = feeds_of(plain[0], case.input_shape, device, DTYPES[case.dtype], seed)
    saved = tuple(saved_bytes(m, feeds[0]) for m in plain)
    peak = tuple(peak_bytes(m, feeds[0]) for m in plain)
    fused, missing = _compiled(case, device, seed, feeds[0]) if compiles else ([], "")
    times = interleaved([*plain, *fused], feeds, device, seconds, _LEAST_ROUNDS, progress)
    base = times[0]
    rows = [replace(_row(case, times[:3], base), saved=saved, peak=peak)]
    if fused:
        rows.append(replace(_row(case, times[3:], base), compiled=True))
    elif compiles:
        rows.append(SuiteRow(case.name, case.dtype, True, case.adds, missing=missing))
    return rows


def _modules(case: Case, device: str, seed: int) -> list[nn.Module]:
    return seeded((case.torchs, case.peer, case.ours), device, DTYPES[case.dtype], seed)


def _compiled(case: Case, device: str, seed: int, feed: Feed) -> tuple[list[nn.Module], str]:
    """Return the modules, compiled and warmed up, or none and the reason."""
    made = [compiled(module) for module in _modules(case, device, seed)]
    try:
        for module in made:
            module(feed.x).backward(feed.g)
    except (RuntimeError, TypeError, ValueError) as problem:
        return [], f"{type(problem).__name__}: {str(problem).strip().splitlines()[0]}"
    return made, ""


def _row(case: Case, times: Sequence[Times], base: Times) -> SuiteRow:
    """Return the row from the times of torch's layer, the baseline and ours, relative to ``base``."""
    peer, ours = times[1].both, times[2].both
    to_peer = Ratio.of(ours, peer)
    return SuiteRow(
        case=case.name,
        dtype=case.dtype,
        compiled=False,
        adds=case.adds,
        verdict=verdict(to_peer),
        rounds=len(ours),
        seconds=statistics.median(base.both),
        peer=Ratio.of(peer, base.both),
        ours=Ratio.of(ours, base.both),
        ours_to_peer=to_peer,
    )
