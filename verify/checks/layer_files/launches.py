"""Record which kernels ran: count every launch inside a context by target and name."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Watched:
    """A loaded kernel library that counts its calls."""

    def __init__(self, kernels: Any, seen: Counter[str]) -> None:
        self._kernels, self._seen = kernels, seen

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self._kernels, name)

        def launch(*arguments: Any) -> Any:
            self._seen[f"cpp:{name}"] += 1
            return kernel(*arguments)

        return launch


@contextmanager
def launches(package: ModuleType) -> Iterator[Counter[str]]:
    """Count the launches of a package's C++ kernels by ``cpp:name`` inside the context.

    The loaded libraries are wrapped, so that each launch is counted where it happens; the results are unchanged.
    """
    seen: Counter[str] = Counter()
    try:
        source = importlib.import_module(f"{package.__name__}.kernels.cpp.runtime.launch").Source
    except ModuleNotFoundError:
        yield seen
        return
    ready = source.ready

    def watched(self: Any, *arguments: Any, **named: Any) -> Any:
        found = ready(self, *arguments, **named)
        return found if found is None else (_Watched(found[0], seen), found[1])

    source.ready = watched
    try:
        yield seen
    finally:
        source.ready = ready
