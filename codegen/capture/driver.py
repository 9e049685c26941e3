"""From a factory to a proven layer: the stages of ``codegen.capture``, one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from codegen.capture.errors import CaptureError, refuse
from codegen.capture.factory import Factory, as_factory, named_factory
from codegen.capture.fitting import Fitter
from codegen.capture.reading import Read, read
from codegen.capture.sampling import Sample, samples
from codegen.capture.uniting import unite
from derive.forward_map import Layer
from derive.names import LONGEST_NAME, RESERVED


@dataclass(frozen=True)
class Captured:
    """A layer and its correspondence with its module.

    ``paths`` maps the layer's tensors to the module's own names of its parameters, buffers and inputs; ``samples`` are
    the programs that the layer was read from; ``axes`` gives, for each axis of the module's output, the indices of the
    layer that run over it.
    """

    layer: Layer
    paths: Mapping[str, str]
    axes: tuple[tuple[str, ...], ...]
    samples: tuple[Sample, ...]
    read: Read


def capture(factory: Callable[..., Any] | str, *, example: str | None = None, name: str | None = None) -> Layer:
    """Return the layer that a factory's module computes, proven by value at several sizes.

    Args:
        factory: a function whose integer parameters are sizes and that returns ``(module, example inputs)``, a class of
            modules whose forward takes one tensor, or ``"MODULE:NAME"`` of either.
        example: for a class, the axes of its input, such as ``"B n"``.
        name: the layer's name; by default the factory's.

    Raises:
        CaptureError: if the module cannot be captured; names the operator, the source line and the fix.
        UsageError: if the text names no factory.
    """
    return captured(factory, example=example, name=name).layer


def captured(factory: Callable[..., Any] | str, *, example: str | None = None, name: str | None = None) -> Captured:
    """Return the layer of a factory and its correspondence with the module: see ``capture``."""
    return captured_from(_factory(factory, example), name)


def captured_from(found: Factory, name: str | None = None) -> Captured:
    """Return the layer of a ``Factory``: see ``capture``."""
    from codegen.capture.proof import prove

    result, fitter = read_from(found, name)
    prove(result, fitter)
    return result


def read_from(found: Factory, name: str | None = None) -> tuple[Captured, Fitter]:
    """Return the layer of a factory before it is proven, and the fitter of its numbers, which ``prove`` needs."""
    sampled = samples(found)
    fitter = Fitter(sampled.points())
    united = unite([s.program for s in sampled.samples], fitter)
    made = read(united, fitter, name or layer_name(found.words), found.words, sampled.batched)
    return Captured(made.layer, made.paths, made.axes, tuple(sampled.samples), made), fitter


def _factory(factory: Callable[..., Any] | str, example: str | None) -> Factory:
    if isinstance(factory, str):
        return named_factory(factory, example)
    if isinstance(factory, type):
        from codegen.capture.factory import class_factory

        return class_factory(factory, example, factory.__qualname__)
    if not callable(factory):
        raise refuse(f"{type(factory).__name__} is no factory", "give a function that returns (module, example inputs)")
    return as_factory(factory)


def layer_name(words: str) -> str:
    """Return a layer name for a factory: the last word of its text, reduced to characters that names may have."""
    last = words.rpartition(":")[2].rpartition(".")[2]
    name = re.sub(r"[^A-Za-z0-9]+", "_", last).strip("_")[:LONGEST_NAME] or "module"
    name = name if name[0].isalpha() else f"layer_{name}"
    return f"{name}_layer" if name in RESERVED or not name.isidentifier() else name


__all__ = ["CaptureError", "Captured", "capture", "captured"]
