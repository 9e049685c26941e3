"""The code that adapts a layer's tensors to catalogue maps: constructor arguments of runtime classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sympy import Expr

from codegen.plans.patch_form import PatchForm
from codegen.plans.row_form import RowLayout
from codegen.printing.expressions import ExpressionPrinter


@dataclass(frozen=True)
class Layout:
    """A runtime class with the interface ``runtime.samples.Layout``: its file, name and argument lines."""

    module: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Shipped:
    """How the shipped maps compute the maps of a layer of one matrix, or of a convolution.

    ``order`` is the order in which they take the layer's tensors; ``homes`` are their files and classes by the map's
    name, if these differ from the layer's own; ``layout`` adapts tensors with another layout.
    """

    order: tuple[int, ...]
    homes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    layout: Layout | None = None


def windows(form: PatchForm) -> Layout:
    """Return the layout of a convolution."""
    numbers = {word: [getattr(w, word) for w in form.windows] for word in ("stride", "padding", "dilation", "length")}
    numbers["lengths"] = numbers.pop("length")
    axes = {"x": form.input_axes, "weight": form.kernel_axes, "bias": form.bias_axes, "z": form.output_axes}
    lines = [f"{word}={_sizes(given)}" for word, given in numbers.items()]
    lines += [f"{word}={_tuple(map(str, places))}" for word, places in axes.items()]
    return Layout("windows", "Windows", (*lines, f"transposed={form.transposed}"))


def rows(layout: RowLayout | None) -> Layout | None:
    """Return the layout of a layer of one matrix; None if its tensors need no adapting."""
    if layout is None:
        return None
    lines = [f"{word}={_tuple(map(str, getattr(layout, word)))}" for word in ("x", "weight", "bias", "z")]
    lines += [f"{word}={_sizes(getattr(layout, word))}" for word in ("samples", "units")]
    return Layout("row_layout", "RowLayout", tuple(lines))


def _sizes(values: Sequence[Expr]) -> str:
    """Return numbers as the text of a tuple; declared sizes are read off the tensors at each call."""
    return _tuple(ExpressionPrinter(str, {s: f'samples.sizes["{s}"]' for s in v.free_symbols}).text(v) for v in values)


def _tuple(entries: Iterable[str]) -> str:
    found = list(entries)
    return f"({', '.join(found)}{',' if len(found) == 1 else ''})"
