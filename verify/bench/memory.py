"""Memory of one launch, in bytes: what is saved for the backward pass, and the peak allocation."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # silences the profiler, which reads this when it starts

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from verify.bench.shapes import Feed


def saved_bytes(module: nn.Module, feed: Feed) -> int:
    """Return the bytes saved for the backward pass, without parameters; each storage counts once."""
    held = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        """Count the storage of a saved tensor, unless it is a parameter or counted already."""
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
    """Return the peak bytes that both passes allocate, gradients included."""
    _drop_gradients(module, feed)
    peak = peak_of(lambda: module(feed.x).backward(feed.g), feed.x.is_cuda)
    _drop_gradients(module, feed)
    return peak


def peak_of(run: Callable[[], Any], on_device: bool) -> int:
    """Return the peak bytes that a call allocates, over what was allocated before it."""
    return _peak_on_device(run) if on_device else _peak_on_host(run)


def _peak_on_device(run: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def _peak_on_host(run: Callable[[], Any]) -> int:
    """Add up the allocations and frees that the profiler recorded, in order of time."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Profiler clears events")  # torch 2.11 warns so for every profile
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
