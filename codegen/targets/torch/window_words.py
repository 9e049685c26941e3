"""The arguments of ``runtime.windows.Windows`` for a layer from a file that is a convolution."""

from __future__ import annotations

from collections.abc import Sequence

from sympy import Expr

from codegen.plans.patch_form import PatchForm
from codegen.printing.expressions import ExpressionPrinter


def windows(form: PatchForm) -> tuple[str, ...]:
    """Return the arguments, one a line; declared sizes are read off the tensors of the call."""
    numbers = {word: [getattr(w, word) for w in form.windows] for word in ("stride", "padding", "dilation", "length")}
    numbers["lengths"] = numbers.pop("length")
    axes = {"x": form.input_axes, "weight": form.kernel_axes, "bias": form.bias_axes, "z": form.output_axes}
    lines = [f"{word}={_tuple([_number(e) for e in given])}" for word, given in numbers.items()]
    lines += [f"{word}={_tuple([str(place) for place in places])}" for word, places in axes.items()]
    return (*lines, f"transposed={form.transposed}")


def _number(value: Expr) -> str:
    return ExpressionPrinter(str, {s: f'samples.sizes["{s}"]' for s in value.free_symbols}).text(value)


def _tuple(entries: Sequence[str]) -> str:
    return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"
