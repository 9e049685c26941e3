"""Names, arguments and sentences of the public functions and modules of a layer for JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codegen.plans.layers import LayerPlan
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layer_function import formulas
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
    tensor_table,
)
from codegen.printing.layout_naming import Shipped
from codegen.printing.naming import class_name, quoted, snake
from codegen.targets.jax.map_file import settings
from derive.export.text import text
from derive.forward_map import Layer, Tensor

MODE_WORDS = (
    'mode: "reverse" uses the derived gradients; "forward" uses the derived tangents, which JAX transposes to compute '
    "gradients."
)


def shared_context(layer: Layer, plans: Sequence[LayerPlan], shipped: Shipped | None = None) -> dict[str, Any]:
    """Return the context of files that hold several maps; ``shipped`` are catalogue maps that compute them."""
    maps = [
        _map_words(layer, plan, None if plan.kappa is None else shipped)
        for plan in sorted(plans, key=lambda p: (p.kappa is None, p.name))
    ]
    first = plans[0]
    own, free = size_names(first.parameter_sizes), size_names(first.free_sizes)
    modules = [m["module_class"] for m in maps]
    return {
        "layer": layer.name,
        "layout": None if shipped is None else shipped.layout,
        "forward": f"{text(layer.output.entry)} = {text(layer.output.expression)}",
        "maps": maps,
        "modules": modules,
        "corrected": [m for m in maps if m["has_kappa"]],
        "exported": quoted(sorted([*modules, "functional", "self_factor"])),
        "exported_functions": quoted(sorted(m["function"] for m in maps)),
        "exported_modules": quoted(sorted(modules)),
        "uses_math": any("math." in line for m in maps for line in m["parameters"]),
        "free_sizes": free,
        "has_sizes": bool(own or free),
        "kept_sizes": [*own, *free],
        "arguments": argument_words(layer, first),
        "mode_words": MODE_WORDS,
        "shapes": shape_words(layer),
        "output": f"{layer.output.name} {axes_text(layer.output.indices[1:], batched=True)}",
        "forward_arguments": ["self", *(f"{t.name}: Array" for t in layer.inputs)],
        "input_table": tensor_table(layer.inputs, batched=True),
        "parameter_table": tensor_table(layer.parameters, batched=False),
        "given_table": "{" + ", ".join(f'"{s}": {s}' for s in free) + "}" if free else "",
        "range_table": range_table(layer.inputs),
        "shared_inputs": shared_names(layer),
        "size_checks": size_checks("name", first.free_sizes),
    }


def _map_words(layer: Layer, plan: LayerPlan, shipped: Shipped | None) -> dict[str, Any]:
    """Return the context of one map."""
    plain = plan.kappa is None
    module, kappa = class_name(layer, plan), kappa_context(plan)
    words = "plain form of" if plain else f"{plan.name} ({plan.kind}) map of"
    own, free = size_names(plan.parameter_sizes), size_names(plan.free_sizes)
    sizes = [f"{s}: a size, {size_use(s, layer.parameters)}." for s in own]
    given = ["key: a key of ``jax.random`` for the initial values.", "dtype: the floating-point type of parameters."]
    kappa_words = [kappa["kappa_words"]] if kappa["kappa_words"] else []
    drawn = [p for p in layer.parameters if first_deviation(plan, p) not in (None, 0)]
    return {
        "module": shipped.homes[plan.name][0] if shipped and shipped.homes else snake(plan.name),
        "layout": None if shipped is None else shipped.layout,
        "function": snake(layer.name) if plain else f"{snake(layer.name)}_{snake(plan.name)}",
        "module_class": module,
        "title": f"The {words} the layer ``{layer.name}``",
        "summary": f"the {words}".removesuffix(" of"),
        "formulas": formulas(plan.layer),
        "zero_words": ZERO_WORDS if plan.kind == "normalising" else "",
        **kappa,
        **_arguments(layer, plan, kappa),
        "settings": _settings(plan, shipped),
        "constructor_words": [*sizes, *given, *free_size_words(plan), *kappa_words, MODE_WORDS],
        "checks": size_checks(f'"{module}"', (*plan.parameter_sizes, *plan.free_sizes)),
        "attributes": [
            *(f"{p.name}: Array" for p in layer.parameters),
            *(f"{s}: int = eqx.field(static=True)" for s in (*own, *free)),
            *([] if plain else ["kappa: float = eqx.field(static=True)"]),
            "mode: str = eqx.field(static=True)",
        ],
        "drawn": len(drawn),
        "parameters": [_first_values(plan, p, drawn) for p in layer.parameters],
    }


def _arguments(layer: Layer, plan: LayerPlan, kappa: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the function, of the constructor, and of the module's call of the function."""
    plain, free = plan.kappa is None, size_names(plan.free_sizes)
    optional = "kappa: float | None = None"
    setting = optional if kappa["kappa_default"] is None else f"kappa: float = {kappa['kappa_default']}"
    module_setting = "kappa: float" if kappa["kappa_needed"] else setting
    tensors = [t.name for t in (*layer.inputs, *layer.parameters)]
    mode, sizes = 'mode: str = "reverse"', [f"{s}: int" for s in free]
    called = [*(t.name for t in layer.inputs), *(f"self.{p.name}" for p in layer.parameters)]
    called += [] if plain else ["self.kappa"]
    return {
        "function_arguments": [*(f"{n}: Array" for n in tensors), *([] if plain else [setting]), "*", *sizes, mode],
        "constructor": [
            *(f"{s}: int" for s in size_names(plan.parameter_sizes)),
            "*",
            "key: Array",
            *sizes,
            *([] if plain else [module_setting]),
            "dtype: jnp.dtype | type = jnp.float32",
            mode,
        ],
        "forward_call": ", ".join([*called, *(f"{s}=self.{s}" for s in free), "mode=self.mode"]),
    }


def _settings(plan: LayerPlan, shipped: Shipped | None) -> str:
    """Return the arguments that a function passes to its map after the mode."""
    if shipped is not None:
        return f", kappa, order={shipped.order}" + (", layout=layout" if shipped.layout else "")
    lengths = quoted(settings(plan))
    return ("" if plan.kappa is None else ", kappa") + (f", *samples.lengths({lengths})" if lengths else "")


def _first_values(plan: LayerPlan, parameter: Tensor, drawn: Sequence[Tensor]) -> str:
    """Return the line that creates and initialises a parameter."""
    deviation = first_deviation(plan, parameter)
    shape = f"({', '.join(str(axis) for axis in parameter.axes)}{',' * (len(parameter.axes) == 1)})"
    if parameter not in drawn:
        return f"self.{parameter.name} = jnp.{'ones' if deviation is None else 'zeros'}({shape}, dtype)"
    assert deviation is not None
    key = "key" if len(drawn) == 1 else f"keys[{drawn.index(parameter)}]"
    names = {s: f"self.{s}" for s in deviation.free_symbols}
    scale = ExpressionPrinter(str, names).factor(deviation)
    return f"self.{parameter.name} = jax.random.normal({key}, {shape}, dtype) * {scale}"
