"""Names, arguments and sentences of the public functions and modules of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codegen.plans.layers import LayerPlan
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layer_function import formulas, settings
from codegen.printing.layer_words import (
    ZERO_WORDS,
    argument_words,
    axes_text,
    first_deviation,
    free_size_words,
    kappa_context,
    range_table,
    shape_words,
    shared_names,
    size_checks,
    size_names,
    size_use,
    start_words,
    tensor_table,
)
from codegen.printing.layout_naming import Shipped
from codegen.printing.naming import BACKEND_WORDS, camel, class_name, quoted, snake
from derive.export.text import text
from derive.forward_map import Layer, Tensor


def shared_context(layer: Layer, plans: Sequence[LayerPlan], shipped: Shipped | None = None) -> dict[str, Any]:
    """Return the context of files that hold several maps; ``shipped`` are catalogue maps that compute them."""
    maps = [
        _Words(layer, plan, None if plan.kappa is None else shipped).context()
        for plan in sorted(plans, key=lambda p: (p.kappa is None, p.name))
    ]
    first = plans[0]
    own, free = size_names(first.parameter_sizes), size_names(first.free_sizes)
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
        "arguments": argument_words(layer, first),
        "backend_words": BACKEND_WORDS,
        "shapes": shape_words(layer),
        "output": f"{layer.output.name} {axes_text(layer.output.indices[1:], batched=True)}",
        "forward_arguments": ", ".join(["self", *(f"{t.name}: Tensor" for t in layer.inputs)]),
        "input_names": ", ".join(t.name for t in layer.inputs),
        "first_input": layer.inputs[0].name,
        "input_table": tensor_table(layer.inputs, batched=True),
        "parameter_table": tensor_table(layer.parameters, batched=False),
        "given_table": "{" + ", ".join(f'"{s}": {s}' for s in free) + "}" if free else "",
        "range_table": range_table(layer.inputs),
        "shared_inputs": shared_names(layer),
        "size_checks": size_checks("name", first.free_sizes),
    }


class _Words:
    """The text about one map."""

    def __init__(self, layer: Layer, plan: LayerPlan, shipped: Shipped | None) -> None:
        self.layer, self.plan, self._shipped = layer, plan, shipped
        self.function = snake(layer.name) if plan.kappa is None else f"{snake(layer.name)}_{snake(plan.name)}"
        self.module = class_name(layer, plan)
        self.own, self.free = size_names(plan.parameter_sizes), size_names(plan.free_sizes)

    def context(self) -> dict[str, Any]:
        """Return the context of the map."""
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
            "zero_words": ZERO_WORDS if plan.kind == "normalising" else "",
            "settings": self._settings(),
            **kappa_context(plan),
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

    def _arguments(self) -> dict[str, Any]:
        """The arguments of the function, of the constructor, and of the module's call of the function."""
        kappa = kappa_context(self.plan)
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
            "checks": size_checks(f'"{self.module}"', (*self.plan.parameter_sizes, *self.plan.free_sizes)),
            "forward_call": ", ".join([*called, *own, *(f"{s}=self.{s}" for s in self.free), "backend=self.backend"]),
            "shown": ", ".join(
                [*(f"{s}={{self.{s}}}" for s in (*self.own, *self.free)), *(["kappa={self.kappa:g}"] * len(own))]
            ),
        }

    def _constructor_words(self, kappa: str) -> list[str]:
        lines = [f"{s}: a size, {size_use(s, self.layer.parameters)}." for s in self.own]
        lines += ["device: where the parameters live.", "dtype: their floating-point type."]
        return [*lines, *free_size_words(self.plan), *([kappa] if kappa else []), BACKEND_WORDS]

    def _parameters(self) -> dict[str, Any]:
        """The parameters: how they are created and initialised."""
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
            "reset_words": start_words(self.plan),
        }

    def _reset(self, parameter: Tensor) -> str:
        """Return the line that initialises a parameter."""
        deviation = first_deviation(self.plan, parameter)
        if deviation is None or deviation == 0:
            return f"nn.init.{'ones' if deviation is None else 'zeros'}_(self.{parameter.name})"
        text = ExpressionPrinter(str, {s: f"self.{s}" for s in deviation.free_symbols}).text(deviation)
        return f"nn.init.normal_(self.{parameter.name}, std={text})"
