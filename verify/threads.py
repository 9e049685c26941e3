"""Run small tensors on one thread: faster than sharing them out, and the same bits whatever the number of cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the context and as many as before after it."""
    with so_many_threads(1):
        yield


@contextmanager
def so_many_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the context and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
