"""Leave a model, and every source of randomness, as they were before: nothing of a diagnosis may stay behind."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of every module on the way out, and the values of those that are plain tensors.

    Parameters and buffers are not copied here: a diagnosis runs on copies of them, which ``torch.func`` puts in their
    place for one call.
    """
    modules = list(model.modules())
    before = [_snapshot(module) for module in modules]
    try:
        yield
    finally:
        for module, (attributes, tables, values) in zip(modules, before, strict=True):
            _restore(module, attributes, tables, values)


_Table = dict[Any, Any]
_Snapshot = tuple[_Table, list[tuple[Any, Any]], list[tuple[Tensor, Tensor]]]


def _snapshot(module: nn.Module) -> _Snapshot:
    """Return the attributes of a module, what its tables and lists hold, and copies of its plain tensors."""
    attributes = dict(module.__dict__)
    held = [(value, value.copy()) for value in attributes.values() if isinstance(value, dict | list)]
    tensors = [value for value in attributes.values() if isinstance(value, Tensor)]
    return attributes, held, [(tensor, tensor.detach().clone()) for tensor in tensors]


def _restore(module: nn.Module, attributes: _Table, held: list[tuple[Any, Any]], values: Any) -> None:
    module.__dict__.clear()
    module.__dict__.update(attributes)
    for container, before in held:
        container.clear()
        container.update(before) if isinstance(container, dict) else container.extend(before)
    with torch.no_grad():
        for tensor, value in values:
            if not torch.equal(tensor, value):
                tensor.copy_(value)


@contextmanager
def same_randomness(model: nn.Module) -> Iterator[None]:
    """Restore the states of Python's, NumPy's and torch's generators on the way out."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)
            if numpy:
                numpy.random.set_state(numpy_state)
