"""A bound on the processor time of a block, which excludes other processes and garbage collection.

A test process holds many objects late in a run, and a garbage collection within a block of milliseconds takes longer.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail unless the block takes less processor time than that."""
    gc.disable()
    start = time.process_time()
    try:
        yield
    finally:
        spent = time.process_time() - start
        gc.enable()
        assert spent < seconds, f"{spent:.2f} s of processor time"
