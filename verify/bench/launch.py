"""Time one launch of a module: forward, then backward, on data that is not in a cache.

On a GPU both passes are timed on the stream, after a write larger than the cache: it flushes the cache and lets the
host queue both passes.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import torch
from torch import nn

from verify.bench.shapes import Feed

WARM_UP = 3
_FLUSHED_BYTES = 256 * 2**20
_HOST_LAUNCHES = 50
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's option numbers for mallopt
_MOST_KEPT, _MOST_IN_HEAP = 2**31 - 1, 2**25  # bytes: the largest values that mallopt accepts
Progress = Callable[[float], None]


@dataclass
class Times:
    """Seconds of each launch of one module, in order."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    @property
    def both(self) -> list[float]:
        """Seconds of both passes, launch by launch."""
        return [f + b for f, b in zip(self.forward, self.backward, strict=True)]

    def of(self, part: str) -> list[float]:
        """Return the seconds of ``forward``, ``backward`` or ``both``."""
        return {"forward": self.forward, "backward": self.backward, "both": self.both}[part]


class Clock:
    """Times single launches on a device."""

    def __init__(self, device: str) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(3)] if device == "cuda" else []
        self._flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device=device) if self._events else None

    def launch(self, module: nn.Module, feed: Feed) -> tuple[float, float]:
        """Run both passes and return the seconds of each; gradients of earlier launches are dropped first."""
        module.zero_grad(set_to_none=True)
        feed.x.grad = None
        return self._on_stream(module, feed) if self._events else _on_host(module, feed)

    def _on_stream(self, module: nn.Module, feed: Feed) -> tuple[float, float]:
        assert self._flushed is not None
        start, between, end = self._events
        self._flushed.zero_()
        start.record()
        z = module(feed.x)
        between.record()
        z.backward(feed.g)
        end.record()
        end.synchronize()
        return start.elapsed_time(between) / 1e3, between.elapsed_time(end) / 1e3


def _on_host(module: nn.Module, feed: Feed) -> tuple[float, float]:
    start = time.perf_counter()
    z = module(feed.x)
    between = time.perf_counter()
    z.backward(feed.g)
    end = time.perf_counter()
    return between - start, end - between


def interleaved(
    modules: Sequence[nn.Module], feeds: Sequence[Feed], device: str, seconds: float, least: int, progress: Progress
) -> list[Times]:
    """Launch the modules in turn, in a new random order each round, until the time is up; return their times.

    All modules of a round read the same feed; feeds rotate, so that the feed of a round has left the caches.
    ``progress`` is called with the elapsed share of the time.
    """
    keep_the_heap()
    clock, order, times = Clock(device), Random(0), [Times() for _ in modules]
    for module in modules:
        for feed in feeds[:WARM_UP]:
            clock.launch(module, feed)
    start, rounds = time.perf_counter(), 0
    with _no_collection():
        while rounds < least or time.perf_counter() - start < seconds:
            feed = feeds[rounds % len(feeds)]
            for k in order.sample(range(len(modules)), len(modules)):
                forward, backward = clock.launch(modules[k], feed)
                times[k].forward.append(forward)
                times[k].backward.append(backward)
            rounds += 1
            progress(min(1.0, (time.perf_counter() - start) / seconds) if seconds else rounds / least)
    return times


def host_seconds(module: nn.Module, feed: Feed) -> float:
    """Return the host overhead of both passes, in seconds: the minimum of many calls at a tiny shape."""
    taken = []
    for number in range(WARM_UP + _HOST_LAUNCHES):
        module.zero_grad(set_to_none=True)
        feed.x.grad = None
        forward, backward = _on_host(module, feed)
        if number >= WARM_UP:
            taken.append(forward + backward)
    return min(taken)


def keep_the_heap() -> None:
    """Make glibc keep freed memory, as it does in a long training run.

    Otherwise the tensor at the top of the heap returns to the system, and every launch faults its pages in again. That
    doubled the time of one module in three, at random torch's or ours.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _MOST_IN_HEAP)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch Python's garbage collector off, so that it does not interrupt a launch."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
