"""The files of the torch target for one layer of any kind: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.plans.layers import LayerPlan
from codegen.plans.plain import SelfFactorPlan
from codegen.printing.layer_function import layer_function_context
from codegen.printing.naming import Family
from codegen.printing.places import in_folder, placed, shared_runtime
from codegen.targets.torch.function_file import function_context
from codegen.targets.torch.layer_self_factor_file import self_factor_file_context
from codegen.targets.torch.layer_words import shared_context
from codegen.targets.torch.render import render
from codegen.targets.torch.target import torch_folder
from derive.forward_map import Layer
from derive.update import effective_update


def layer_files(layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan) -> dict[str, str]:
    """Return the text of every file by its path in the package; the last plan is that of the layer itself."""
    contexts = [layer_function_context(plan) for plan in plans]
    maps = {f"{c['module']}.py": render("layer_function.py.jinja", c) for c in contexts}
    return in_folder("torch", maps) | _around(layer, plans, factor, None)


def row_files(
    layer: Layer,
    plans: Sequence[LayerPlan],
    factor: SelfFactorPlan,
    families: Sequence[Family],
    order: tuple[int, ...],
) -> dict[str, str]:
    """Return the same for a layer of one matrix, whose maps are those of ``families``.

    ``order`` holds the places of input, matrix and vector among the layer's tensors.
    """
    contexts = [function_context(family.with_bias, with_bias=True) for family in families]
    maps = {f"{c['module']}.py": render("function.py.jinja", c) for c in contexts}
    own = layer_function_context(plans[-1])
    maps[f"{own['module']}.py"] = render("layer_function.py.jinja", own)
    return in_folder("torch", maps) | _around(layer, plans, factor, order)


def _around(
    layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan, order: tuple[int, ...] | None
) -> dict[str, str]:
    """Return the files around the maps: functions, modules and helpers."""
    shared = shared_context(layer, plans, order)
    samples = effective_update(layer).samples
    result = {
        "self_factors.py": render("layer_self_factors.py.jinja", self_factor_file_context(factor, shared, samples))
    }
    for name in ("functional", "modules"):
        result[f"{name}.py"] = render(f"layer_{name}.py.jinja", shared)
    result["__init__.py"] = render("layer_init.py.jinja", shared)
    result["py.typed"] = ""
    helpers = ("operands.py", "rows.py", "backends.py", "positions.py", "samples.py")
    return placed(result) | torch_folder() | shared_runtime(*helpers)
