"""A bound on the processor time of a block: neither other processes nor the collection of garbage adds to it.

A test process holds much by the end of a run, and a collection that falls into a block of milliseconds takes longer.
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
