"""Set torch's number of threads: for small tensors one thread is faster, and its results do not depend on the cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside the context, and restore the number afterwards."""
    with so_many_threads(1):
        yield


@contextmanager
def so_many_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the context, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
