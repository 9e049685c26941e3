"""The files of the JAX target for one layer of any form: from plans to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from codegen.lower.safe_names import local_sizes
from codegen.plans.angles import NAME as ANGLE
from codegen.plans.layers import LayerPlan, layer_plan
from codegen.plans.patch_form import PatchForm
from codegen.plans.patch_maps import PatchMap
from codegen.plans.plain import SelfFactorPlan
from codegen.plans.row_form import RowForm
from codegen.plans.solve_at import solve_at
from codegen.printing.layer_words import factor_lengths, factor_words
from codegen.printing.layout_naming import Shipped, rows, windows
from codegen.printing.naming import AngleFamily, Family
from codegen.printing.places import folder, folders, in_folder, placed, target_runtime
from codegen.targets.jax.map_file import bare_code, computing, imports, map_context
from codegen.targets.jax.naming import shared_context
from codegen.targets.jax.patch_maps import patch_map_files
from codegen.targets.jax.printer import JaxPrinter
from codegen.targets.jax.render import render
from derive.export.text import text
from derive.forward_map import Layer
from derive.update import effective_update


def package_of_layer(layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan) -> dict[str, str]:
    """Return the text of every file by its path in the package; the last plan is the plain layer's.

    Raises ``UsageError`` for a layer with a part that the target cannot print.
    """
    return map_files(plans) | _around(layer, plans, factor, None)


def package_of_rows(
    layer: Layer,
    plans: Sequence[LayerPlan],
    factor: SelfFactorPlan,
    families: Sequence[Family],
    angles: Sequence[AngleFamily],
    form: RowForm,
) -> dict[str, str]:
    """Return the same for a layer of one matrix, whose maps are those of ``families`` in its ``form``."""
    at = angles[0].with_bias.angle if angles else None
    names = {"angle": ANGLE}
    canonical = [layer_plan(m, names.get(m.name, m.name)) for m in solve_at(form.layer, at)]
    shipped = Shipped(form.order, layout=rows(form.layout))
    more = target_runtime("jax", "row_layout.py") if shipped.layout else {}
    return map_files([*canonical, plans[-1]]) | _around(layer, plans, factor, shipped) | more


def package_of_patches(
    layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan, maps: Sequence[PatchMap], form: PatchForm
) -> dict[str, str]:
    """Return the same for a convolution, whose maps are the shipped ``maps`` in its ``form``."""
    shipped = Shipped(form.order, {m.plan.name: (m.module, m.function_class) for m in maps}, windows(form))
    own = map_files(plans[-1:]) | patch_map_files(tuple(maps)) | target_runtime("jax", "windows.py")
    return own | _around(layer, plans, factor, shipped)


def _around(
    layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan, shipped: Shipped | None
) -> dict[str, str]:
    """Return the files around the maps: functions, modules and helpers."""
    shared = shared_context(layer, plans, shipped)
    result = {f"{name}.py": render(f"{name}.py.jinja", shared) for name in ("__init__", "functional", "modules")}
    result["self_factors.py"] = render("self_factors.py.jinja", _self_factor_context(layer, factor, shared))
    result["py.typed"] = ""
    return placed(result) | folders() | folder("jax", "The maps in JAX's operations")


def map_files(plans: Sequence[LayerPlan]) -> dict[str, str]:
    """Return the files of maps, and the files that they share."""
    contexts = [map_context(plan) for plan in plans]
    maps = {f"{c['module']}.py": render("map.py.jinja", c) for c in contexts}
    return in_folder("jax", maps) | target_runtime("jax", "wide.py", "positions.py", "samples.py")


def _self_factor_context(layer: Layer, plan: SelfFactorPlan, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the context of ``self_factors.py.jinja``."""
    own, samples = plan.layer, effective_update(layer).samples
    sizes = local_sizes(own, plan.program.values)
    tensors = [plan.names[t.name] for t in (*own.inputs, *own.parameters)]
    real = [plan.names[t.name] for t in (*own.inputs, *own.parameters) if t.values is None]
    lines = JaxPrinter(plan.program, sizes, plan.types, real).lines()
    code = bare_code(lines)
    used = {s: name for s, name in sizes.items() if re.search(rf"\b{name}\b", code)}
    quoted = ", ".join(f'"{s}"' for s in used)
    return {
        **shared,
        **imports(lines),
        "formula": f"{text(own.output.entry)} = {text(own.output.expression)}",
        "about": "One step of gradient descent with rate eta moves the activation of a sample by -eta times this, "
        "times the sample's own gradient, if its input does not change.",
        "digest": plan.digest,
        "plain": next(m["module_class"] for m in shared["maps"] if not m["has_kappa"]),
        "inputs": [f"{t.name}: Array" for t in own.inputs],
        "parameter_table": re.sub(r"\((\w+), \(", r"(module.\1, (", shared["parameter_table"]),
        "given_table": re.sub(r": (\w+)", r": module.\1", shared["given_table"]),
        "shape_words": factor_words(plan, samples),
        "factor_lengths": factor_lengths(plan, samples),
        "settings": f", *samples.lengths({quoted})" if used else "",
        "arguments": [*(f"{name}: Array" for name in tensors), *(f"{name}: int" for name in used.values())],
        "like": real[0],
        "uses_dtype": bool(re.search(r"\bdtype\b", code)),
        "computing": computing(real),
        "lines": lines,
        "result": plan.program.outputs[0],
    }
