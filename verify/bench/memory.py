"""Bytes of one launch: what is kept between forward and backward, and the most that is allocated at once."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # read when the profiler starts: else it writes to standard error

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from verify.bench.shapes import Feed


def saved_bytes(module: nn.Module, feed: Feed) -> int:
    """Return the bytes of all tensors kept for the backward pass but parameters, each storage counted once."""
    held = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        """Note what is kept for the backward pass, each storage once, parameters aside."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        z = module(feed.x)
    z.backward(feed.g)
    _drop_gradients(module, feed)
    return sum(kept.values())


def peak_bytes(module: nn.Module, feed: Feed) -> int:
    """Return the most bytes that both passes hold at once beside what was there before, gradients included."""
    _drop_gradients(module, feed)
    peak = peak_of(lambda: module(feed.x).backward(feed.g), feed.x.is_cuda)
    _drop_gradients(module, feed)
    return peak


def peak_of(run: Callable[[], Any], on_device: bool) -> int:
    """Return the most bytes that a call holds at once beside what was there before."""
    return _peak_on_device(run) if on_device else _peak_on_host(run)


def _peak_on_device(run: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_host(run: Callable[[], Any]) -> int:
    """Add up the allocations that the profiler saw, in the order of time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Profiler clears events")  # torch 2.11 says so of any profile
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    total = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"]):
        total += event["args"]["Bytes"]
        peak = max(peak, total)
    return peak


def _drop_gradients(module: nn.Module, feed: Feed) -> None:
    module.zero_grad(set_to_none=True)
    feed.x.grad = None
