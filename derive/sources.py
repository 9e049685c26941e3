"""Sources of layers that other packages add: codegen registers here how to read ``MODULE:FACTORY``.

Not done here: any reading. This file imports nothing at run time, so that adding a source costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from derive.forward_map import Layer

Source = Callable[[str], "Layer"]
_sources: list[Source] = []
FORM = "MODULE:FACTORY"


def add_source(source: Source) -> None:
    """Register ``source``, which reads ``MODULE:FACTORY``, or ``MODULE:Class`` with the axes of an example."""
    _sources[:] = [source]


def is_module(name: str) -> bool:
    """Return whether a layer's name is of that form."""
    return ":" in name and not name.endswith(".toml")


def from_module(name: str) -> Layer:
    """Return the layer that ``MODULE:FACTORY`` names; raise LayerError if no registered source reads modules."""
    from derive.forward_map import LayerError

    if not _sources:
        raise LayerError(f"{name!r} names a PyTorch module; import codegen, or use the command line, to read one")
    return _sources[0](name)


def with_example(name: str, example: str | None) -> str:
    """Return a layer's name with the axes of an example, which only ``MODULE:Class`` takes."""
    return name if example is None or not is_module(name) else f"{name} {example}"
