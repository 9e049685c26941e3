"""Names, arguments and sentences of the public functions and modules of a layer from its plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Expr, Mul, Symbol

from codegen.plans.layers import LayerPlan
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layer_function import formulas, settings
from codegen.printing.naming import BACKEND_WORDS, camel, class_name, listed, quoted, snake
from codegen.targets.torch.layout_naming import Layout
from derive.export.text import text
from derive.forward_map import BATCH, Layer, Tensor

_ZERO = (
    " A sample without energy has no direction: its weight part and its gradient with respect to the scale are zero."
)


@dataclass(frozen=True)
class Shipped:
    """How the shipped maps compute those of a layer: a layer of one matrix, or a convolution.

    ``order`` is that in which they take the layer's tensors; ``homes`` are their files and classes by the name of the
    map, where these differ from a layer's own; ``layout`` says how they take tensors that are laid out in another way.
    """

    order: tuple[int, ...]
    homes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    layout: Layout | None = None


def shared_context(layer: Layer, plans: Sequence[LayerPlan], shipped: Shipped | None = None) -> dict[str, Any]:
    """Return what the files that hold several maps need; ``shipped`` maps compute them, or None does."""
    maps = [
        _Words(layer, plan, None if plan.kappa is None else shipped).context()
        for plan in sorted(plans, key=lambda p: (p.kappa is None, p.name))
    ]
    first = plans[0]
    own, free = _sizes(first.parameter_sizes), _sizes(first.free_sizes)
    return {
        "layer": layer.name,
        "forward": f"{text(layer.output.entry)} = {text(layer.output.expression)}",
        "maps": maps,
        "modules": [m["module_class"] for m in maps],
        "corrected": [m for m in maps if m["has_kappa"]],
        "layout": None if shipped is None else shipped.layout,
        "exported": quoted(sorted([*(m["module_class"] for m in maps), "functional", "self_factor"])),
        "exported_functions": quoted(sorted(m["function"] for m in maps)),
        "exported_modules": quoted(sorted(m["module_class"] for m in maps)),
        "uses_math": any("math." in line for m in maps for line in m["resets"]),
        "free_sizes": free,
        "has_sizes": bool(own or free),
        "kept_sizes": [*own, *free],
        "arguments": _argument_words(layer, first),
        "backend_words": BACKEND_WORDS,
        "shapes": _shapes(layer),
        "output": f"{layer.output.name} {_axes(layer.output.indices[1:], batched=True)}",
        "forward_arguments": ", ".join(["self", *(f"{t.name}: Tensor" for t in layer.inputs)]),
        "input_names": ", ".join(t.name for t in layer.inputs),
        "first_input": layer.inputs[0].name,
        "input_table": _table(layer.inputs, batched=True),
        "parameter_table": _table(layer.parameters, batched=False),
        "given_table": "{" + ", ".join(f'"{s}": {s}' for s in free) + "}" if free else "",
        "range_table": _ranges(layer.inputs),
        "size_checks": _size_checks("name", first.free_sizes),
    }


class _Words:
    """The words of one map."""

    def __init__(self, layer: Layer, plan: LayerPlan, shipped: Shipped | None) -> None:
        self.layer, self.plan, self._shipped = layer, plan, shipped
        self.function = snake(layer.name) if plan.kappa is None else f"{snake(layer.name)}_{snake(plan.name)}"
        self.module = class_name(layer, plan)
        self.own, self.free = _sizes(plan.parameter_sizes), _sizes(plan.free_sizes)

    def context(self) -> dict[str, Any]:
        """Return what the templates say of the map."""
        plan, shipped = self.plan, self._shipped
        own = snake(plan.name), camel(plan.name)
        module, function_class = own if shipped is None else shipped.homes.get(plan.name, own)
        return {
            "module": module,
            "function_class": function_class,
            "layout": None if shipped is None else shipped.layout,
            "function": self.function,
            "module_class": self.module,
            "title": f"The {self._words()} the layer ``{self.layer.name}``".replace("of the layer itself ", ""),
            "summary": f"the {self._words()}".removesuffix(" of"),
            "formulas": formulas(plan.layer),
            "zero_words": _ZERO if plan.kind == "normalising" else "",
            "settings": self._settings(),
            **self._kappa(),
            **self._arguments(),
            **self._parameters(),
        }

    def _words(self) -> str:
        plan = self.plan
        return "plain form of" if plan.kappa is None else f"{plan.name} ({plan.kind}) map of"

    def _settings(self) -> str:
        if self._shipped is not None:
            layout = ", layout=layout" if self._shipped.layout else ""
            return f", kappa, order={self._shipped.order}{layout}"
        lengths = quoted(settings(self.plan))
        kappa = "" if self.plan.kappa is None else ", kappa"
        return f"{kappa}, *samples.lengths({lengths})" if lengths else kappa

    def _kappa(self) -> dict[str, Any]:
        """What signatures and checks say of kappa; its default and bound may depend on sizes."""
        plan = self.plan
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
            "kappa_choice": _number(plan.kappa_default, 'samples.sizes["{}"]'),
            "kappa_choice_module": _number(plan.kappa_default, "{}"),
            "kappa_above": _number(plan.kappa_above, 'samples.sizes["{}"]'),
            "kappa_above_module": "0.0" if needed else _number(plan.kappa_above, "{}"),
        }

    def _arguments(self) -> dict[str, Any]:
        """The arguments of the function, of the constructor, and of the one's call by the other."""
        kappa = self._kappa()
        optional = "kappa: float | None = None"
        own = [] if self.plan.kappa is None else ["self.kappa"]
        setting = optional if kappa["kappa_default"] is None else f"kappa: float = {kappa['kappa_default']}"
        tensors = [t.name for t in (*self.layer.inputs, *self.layer.parameters)]
        free = ["*", *(f"{s}: int" for s in self.free)] if self.free else []
        module_setting = "kappa: float" if kappa["kappa_needed"] else setting
        lent = ["device: torch.device | str | None = None", "dtype: torch.dtype | None = None"]
        called = [*(t.name for t in self.layer.inputs), *(f"self.{p.name}" for p in self.layer.parameters)]
        backend = "backend: str | None = None"
        marked = free or ["*"]
        return {
            "function_arguments": [*(f"{name}: Tensor" for name in tensors), *([setting] * len(own)), *marked, backend],
            "constructor": [
                *(f"{s}: int" for s in self.own),
                *lent,
                "*",
                *(f"{s}: int" for s in self.free),
                *([module_setting] * len(own)),
                backend,
            ],
            "constructor_words": self._constructor_words(kappa["kappa_words"]),
            "checks": _size_checks(f'"{self.module}"', (*self.plan.parameter_sizes, *self.plan.free_sizes)),
            "forward_call": ", ".join([*called, *own, *(f"{s}=self.{s}" for s in self.free), "backend=self.backend"]),
            "shown": ", ".join(
                [*(f"{s}={{self.{s}}}" for s in (*self.own, *self.free)), *(["kappa={self.kappa:g}"] * len(own))]
            ),
        }

    def _constructor_words(self, kappa: str) -> list[str]:
        lines = [f"{s}: a size, {_uses(s, self.layer.parameters)}." for s in self.own]
        lines += ["device: where the parameters live.", "dtype: their floating-point type."]
        return [*lines, *_free_words(self.plan), *([kappa] if kappa else []), BACKEND_WORDS]

    def _parameters(self) -> dict[str, Any]:
        """The parameters, how they are made and how they start."""
        attributes = [f"{s}: int" for s in (*self.own, *self.free)]
        attributes += [
            *(["kappa: float"] * (self.plan.kappa is not None)),
            "backend: str | None",
            *(f"{p.name}: nn.Parameter" for p in self.layer.parameters),
        ]
        made, resets = [], []
        for parameter in self.layer.parameters:
            lengths = ", ".join(str(axis) for axis in parameter.axes)
            tensor = f"torch.empty({lengths}, device=device, dtype=dtype)"
            made.append(f"self.{parameter.name} = nn.Parameter({tensor})")
            resets.append(self._reset(parameter))
        return {
            "attributes": attributes,
            "parameters": made,
            "resets": resets,
            "reset_words": self._reset_words(),
        }

    def _reset(self, parameter: Tensor) -> str:
        """Return the line that draws the first values of a parameter."""
        plan = self.plan
        if parameter.name in plan.offsets:
            return f"nn.init.zeros_(self.{parameter.name})"
        if plan.kappa is None or plan.weight_deviation is None:
            fan_in = Mul(*parameter.axes[1:])
            if fan_in == 1:
                return f"nn.init.ones_(self.{parameter.name})"
            deviation = 1 / sympy.sqrt(fan_in)
        else:
            known = {plan.kappa, *plan.parameter_sizes, *plan.free_sizes}
            free = plan.weight_deviation.free_symbols
            deviation = sympy.Abs(plan.weight_deviation) if free <= known else 1 / sympy.sqrt(plan.kappa)
        text = ExpressionPrinter(str, {s: f"self.{s}" for s in deviation.free_symbols}).text(deviation)
        return f"nn.init.normal_(self.{parameter.name}, std={text})"

    def _reset_words(self) -> str:
        weights = [f"``{p.name}``" for p in self.layer.parameters if p.name not in self.plan.offsets]
        offsets = [f"``{name}``" for name in self.plan.offsets]
        zero = f", and set {listed(offsets)} to zero" if offsets else ""
        if self.plan.kappa is None:
            return f"Draw weights with the variance that torch's layers have, set gains to one{zero}."
        drawn = (
            f"Draw {listed(weights)} so that outputs keep a variance of at most one" if weights else "Set parameters"
        )
        return f"{drawn}{zero}."


def _sizes(symbols: Sequence[Symbol]) -> list[str]:
    return [str(s) for s in symbols]


def _number(value: Expr, size: str) -> str:
    if not value.free_symbols:
        return repr(float(value))
    return ExpressionPrinter(str, {s: size.format(s) for s in value.free_symbols}).text(value)


def _axes(indices: Sequence[Any], batched: bool) -> str:
    lengths = [str(getattr(i, "size", i)) for i in indices]
    inside = ", ".join((["..."] if batched else []) + lengths)
    return f"({inside})"


def _argument_words(layer: Layer, plan: LayerPlan) -> list[str]:
    lines = []
    for t in layer.inputs:
        what = "input" if t.values is None else f"integers from 0 to {t.values - 1}"
        lines.append(f"{t.name}: {what} {_axes(t.axes[1:], batched=True)}.")
    lines += [f"{p.name}: parameter {_axes(p.axes, batched=False)}." for p in layer.parameters]
    return [*lines, *_free_words(plan)]


def _free_words(plan: LayerPlan) -> list[str]:
    return [
        f"{s}: {'a size' if s.is_positive else 'an offset'} that no input and no parameter shows."
        for s in plan.free_sizes
    ]


def _uses(size: str, parameters: Sequence[Tensor]) -> str:
    return "an axis of " + listed([f"``{p.name}``" for p in parameters if size in {str(a) for a in p.axes}])


def _shapes(layer: Layer) -> str:
    inputs = listed([f"{t.name} {_axes(t.axes[1:], batched=True)}" for t in layer.inputs])
    output = f"{layer.output.name} {_axes(layer.output.indices[1:], batched=True)}"
    return f"Input {inputs}, output {output}; every position along the leading axes is a sample."


def _table(tensors: Sequence[Tensor], batched: bool) -> str:
    """Return a dictionary of tensors with their axes behind the batch."""
    entries = []
    for t in tensors:
        axes = [str(a) if a.is_Integer else f'"{a}"' for a in t.axes if not (batched and a == BATCH.size)]
        comma = "," if len(axes) == 1 else ""
        entries.append(f'"{t.name}": ({t.name}, ({", ".join(axes)}{comma}))')
    return "{" + ", ".join(entries) + "}"


def _ranges(inputs: Sequence[Tensor]) -> str:
    entries = [
        f'"{t.name}": {t.values if t.values.is_Integer else repr(str(t.values))}'
        for t in inputs
        if t.values is not None
    ]
    return "{" + ", ".join(entries).replace("'", '"') + "}" if entries else ""


def _size_checks(name: str, sizes: Sequence[Symbol]) -> list[str]:
    positive = [f"{s}={s}" for s in sizes if s.is_positive]
    offsets = [f"{s}={s}" for s in sizes if not s.is_positive]
    lines = [f"check_sizes({name}, {', '.join(positive)})"] if positive else []
    return lines + ([f"check_sizes({name}, 0, {', '.join(offsets)})"] if offsets else [])
