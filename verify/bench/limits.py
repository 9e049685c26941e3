"""Peak performance of the machine: copy bandwidth and matrix-product throughput, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_COPIED_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
_SIDE = {"cpu": 2048, "cuda": 8192}
_REPEATS = 9


@dataclass(frozen=True)
class Limits:
    """Bytes per second of a large copy (reads plus writes), and operations per second of a square matrix product."""

    copy_bytes: float
    product_operations: float


def measure_limits(device: str, dtype: torch.dtype, quick: bool) -> Limits:
    """Measure both limits: the best of several tries, because a limit is what an undisturbed machine reaches."""
    size, side = _COPIED_BYTES[device], _SIDE[device]
    if quick:
        size, side = size // 64, side // 16
    source = torch.randint(0, 100, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    copied, multiplied = [], []
    for _ in range(_REPEATS):
        copied.append(_seconds(lambda: target.copy_(source), device))
        multiplied.append(_seconds(lambda: torch.mm(a, b, out=out), device))
    return Limits(2 * size / min(copied), 2 * side**3 / min(multiplied))


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds of the work: on a GPU from its own events, so that host overhead does not count."""
    if device == "cuda":
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        work()
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1])) / 1e3
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
