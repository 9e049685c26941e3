"""Text about a layer of any form for packages in every library: shapes, sizes, tables of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr, Mul, Symbol

from codegen.plans.layers import LayerPlan
from codegen.plans.plain import SelfFactorPlan
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.naming import listed
from derive.algebra.index import Index
from derive.forward_map import BATCH, Layer, Tensor

_SHAPES = {
    "isotropic": "the leading axes of the inputs{samples}: one number, the same for every unit.",
    "diagonal": "the leading axes of the inputs{samples}, then the units{units}: one number per unit.",
    "full": "the leading axes of the inputs{samples}, then the units twice{units}: K[i, i'] says how far the gradient "
    "with respect to unit i' moves unit i.",
}

ZERO_WORDS = (
    " A sample of energy zero has no direction: its weight part and its gradient with respect to the scale are zero."
)


def size_names(symbols: Sequence[Symbol]) -> list[str]:
    """Return the names of sizes."""
    return [str(s) for s in symbols]


def number_text(value: Expr, size: str) -> str:
    """Return the text of a number, which may depend on sizes; ``size`` is a pattern for the text of a size."""
    if not value.free_symbols:
        return repr(float(value))
    return ExpressionPrinter(str, {s: size.format(s) for s in value.free_symbols}).text(value)


def axes_text(indices: Sequence[Any], batched: bool) -> str:
    """Return the axes after the batch as text for readers: ``(..., n)``."""
    lengths = [str(getattr(i, "size", i)) for i in indices]
    inside = ", ".join((["..."] if batched else []) + lengths)
    return f"({inside})"


def is_shared(tensor: Tensor) -> bool:
    """Return whether all samples share an input, such as a mask."""
    return tensor.axes[:1] != (BATCH.size,)


def input_text(tensor: Tensor) -> str:
    """Return the axes of an input: ``(..., n)``, or without the dots if all samples share it."""
    return axes_text(tensor.axes, batched=False) if is_shared(tensor) else axes_text(tensor.axes[1:], batched=True)


def shared_names(layer: Layer) -> str:
    """Return the names of the inputs that all samples share as the text of a tuple, "" if there are none."""
    names = [f'"{t.name}"' for t in layer.inputs if is_shared(t)]
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})" if names else ""


def argument_words(layer: Layer, plan: LayerPlan) -> list[str]:
    """Return a line about each argument of a layer's functions."""
    lines = []
    for t in layer.inputs:
        what = "input" if t.values is None else f"integers from 0 to {t.values - 1}"
        lines.append(f"{t.name}: {what} {input_text(t)}.")
    lines += [f"{p.name}: parameter {axes_text(p.axes, batched=False)}." for p in layer.parameters]
    return [*lines, *free_size_words(plan)]


def free_size_words(plan: LayerPlan) -> list[str]:
    """Return a line about each size that no tensor determines."""
    return [
        f"{s}: {'a size' if s.is_positive else 'an offset'} that no input or parameter determines."
        for s in plan.free_sizes
    ]


def size_use(size: str, parameters: Sequence[Tensor]) -> str:
    """Return which tensors have an axis of a size."""
    plain = [f"``{p.name}``" for p in parameters if size in {str(a) for a in p.axes}]
    parts = [f"``{p.name}``" for p in parameters if size in {str(s) for a in p.axes for s in a.free_symbols}]
    return f"an axis of {listed(plain)}" if plain else f"a part of an axis of {listed(parts)}"


def shape_words(layer: Layer) -> str:
    """Return a sentence about the shapes of inputs and output."""
    inputs = listed([f"{t.name} {input_text(t)}" for t in layer.inputs])
    output = f"{layer.output.name} {axes_text(layer.output.indices[1:], batched=True)}"
    return f"Input {inputs}, output {output}; every position along the leading axes is a sample."


def tensor_table(tensors: Sequence[Tensor], batched: bool) -> str:
    """Return the text of a dictionary of tensors and their axes after the batch."""
    entries = []
    for t in tensors:
        axes = [str(a) if a.is_Integer else f'"{a}"' for a in t.axes if not (batched and a == BATCH.size)]
        comma = "," if len(axes) == 1 else ""
        entries.append(f'"{t.name}": ({t.name}, ({", ".join(axes)}{comma}))')
    return "{" + ", ".join(entries) + "}"


def range_table(inputs: Sequence[Tensor]) -> str:
    """Return the text of a dictionary of integer inputs and their exclusive upper bounds."""
    entries = [
        f'"{t.name}": {t.values if t.values.is_Integer else repr(str(t.values))}'
        for t in inputs
        if t.values is not None
    ]
    return "{" + ", ".join(entries).replace("'", '"') + "}" if entries else ""


def size_checks(name: str, sizes: Sequence[Symbol]) -> list[str]:
    """Return the lines that check sizes."""
    positive = [f"{s}={s}" for s in sizes if s.is_positive]
    offsets = [f"{s}={s}" for s in sizes if not s.is_positive]
    lines = [f"check_sizes({name}, {', '.join(positive)})"] if positive else []
    return lines + ([f"check_sizes({name}, 0, {', '.join(offsets)})"] if offsets else [])


def kappa_context(plan: LayerPlan) -> dict[str, Any]:
    """Return the text about kappa in signatures and checks; its default and bound may depend on sizes."""
    if plan.kappa is None:
        return {"has_kappa": False, "kappa_default": "", "kappa_needed": False, "kappa_words": ""}
    fixed = not plan.kappa_default.free_symbols and not plan.kappa_above.free_symbols
    default = repr(float(plan.kappa_default)) if fixed else None
    known = {*plan.parameter_sizes, *plan.free_sizes}
    needed = bool((plan.kappa_default.free_symbols | plan.kappa_above.free_symbols) - known)
    above = "" if plan.kappa_above == 0 else f" above {plan.kappa_above}"
    words = f"kappa: the self factor of every sample, a positive number{above}"
    if not fixed:
        words += f"; None means {plan.kappa_default}"
    return {
        "has_kappa": True,
        "kappa_default": default,
        "kappa_needed": needed,
        "kappa_words": f"{words}.",
        "kappa_choice": number_text(plan.kappa_default, 'samples.sizes["{}"]'),
        "kappa_choice_module": number_text(plan.kappa_default, "{}"),
        "kappa_above": number_text(plan.kappa_above, 'samples.sizes["{}"]'),
        "kappa_above_module": "0.0" if needed else number_text(plan.kappa_above, "{}"),
    }


def first_deviation(plan: LayerPlan, parameter: Tensor) -> Expr | None:
    """Return the standard deviation of a parameter's initial values, which have mean zero; None if all are one."""
    if parameter.name in plan.offsets:
        return sympy.S.Zero
    if plan.kappa is None or plan.weight_deviation is None:
        fan_in = Mul(*parameter.axes[1:])
        return None if fan_in == 1 else 1 / sympy.sqrt(fan_in)
    known = {plan.kappa, *plan.parameter_sizes, *plan.free_sizes}
    free = plan.weight_deviation.free_symbols
    return sympy.Abs(plan.weight_deviation) if free <= known else 1 / sympy.sqrt(plan.kappa)


def start_words(plan: LayerPlan) -> str:
    """Return a sentence about the initialisation of a map's parameters."""
    weights = [f"``{p.name}``" for p in plan.layer.parameters if p.name not in plan.offsets]
    offsets = [f"``{name}``" for name in plan.offsets]
    zero = f", and set {listed(offsets)} to zero" if offsets else ""
    if plan.kappa is None:
        return f"Draw weights with the variance that torch's layers have, set gains to one{zero}."
    drawn = f"Draw {listed(weights)} so that outputs keep a variance of at most one" if weights else "Set parameters"
    return f"{drawn}{zero}."


def factor_words(plan: SelfFactorPlan, samples: Sequence[Index]) -> str:
    """Return the shape of a layer's self factors as text; ``samples`` are the sample axes, the batch first."""
    return _SHAPES[plan.shape].format(samples=_along(samples[1:]), units=_along(_units(plan, samples)))


def factor_lengths(plan: SelfFactorPlan, samples: Sequence[Index]) -> str:
    """Return the lengths of their axes after the batch as the text of a tuple."""
    indices = [*samples[1:], *(_units(plan, samples) if plan.shape == "diagonal" else ())]
    return f"({', '.join(_length(i.size) for i in indices)}{',' * (len(indices) == 1)})"


def _units(plan: SelfFactorPlan, samples: Sequence[Index]) -> Sequence[Index]:
    return plan.program.values[plan.program.outputs[0]].indices[len(samples) :]


def _along(indices: Sequence[Index]) -> str:
    return f" ({', '.join(str(i.size) for i in indices)})" if indices else ""


def _length(size: Expr) -> str:
    names = {s: f'samples.sizes["{s}"]' for s in size.free_symbols if s != BATCH.size}
    return ExpressionPrinter(str, names).text(size)
