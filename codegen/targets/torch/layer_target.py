"""The files of the torch target for one layer of any form: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.plans.layers import LayerPlan
from codegen.plans.patch_form import PatchForm
from codegen.plans.patch_maps import PatchMap
from codegen.plans.plain import SelfFactorPlan
from codegen.plans.row_form import RowForm
from codegen.printing.functional import targets_file
from codegen.printing.layer_function import layer_function_context
from codegen.printing.layout_naming import Shipped, rows, windows
from codegen.printing.naming import AngleFamily, Family
from codegen.printing.places import in_folder, placed, shared_runtime
from codegen.targets.torch.function_file import function_context
from codegen.targets.torch.layer_naming import shared_context
from codegen.targets.torch.layer_self_factor_file import self_factor_file_context
from codegen.targets.torch.patch_function import patch_context
from codegen.targets.torch.render import render
from codegen.targets.torch.target import angle_files, torch_folder
from derive.forward_map import Layer
from derive.update import effective_update


def package_of_layer(layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan) -> dict[str, str]:
    """Return the text of every file by its path in the package; the last plan is the plain layer's."""
    contexts = [layer_function_context(plan) for plan in plans]
    maps = {f"{c['module']}.py": render("layer_function.py.jinja", c) for c in contexts}
    return in_folder("torch", maps) | _around(layer, plans, factor, None)


def package_of_rows(
    layer: Layer,
    plans: Sequence[LayerPlan],
    factor: SelfFactorPlan,
    families: Sequence[Family],
    angles: Sequence[AngleFamily],
    form: RowForm,
) -> dict[str, str]:
    """Return the same for a layer of one matrix, whose maps are those of ``families`` in its ``form``."""
    contexts = [function_context(family.with_bias, with_bias=True) for family in families]
    maps = {f"{c['module']}.py": render("function.py.jinja", c) for c in contexts} | angle_files(angles)
    shipped = Shipped(form.order, layout=rows(form.layout))
    return in_folder("torch", maps | _own(plans[-1])) | _around(layer, plans, factor, shipped)


def package_of_patches(
    layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan, maps: Sequence[PatchMap], form: PatchForm
) -> dict[str, str]:
    """Return the same for a convolution, whose maps are the shipped ``maps`` in its ``form``."""
    texts = {f"{m.module}.py": render("patch_function.py.jinja", patch_context(m)) for m in maps}
    homes = {m.plan.name: (m.module, m.function_class) for m in maps}
    around = _around(layer, plans, factor, Shipped(form.order, homes, windows(form)))
    return in_folder("torch", texts | _own(plans[-1])) | around | shared_runtime("far_images.py", "patches.py")


def _own(plan: LayerPlan) -> dict[str, str]:
    """Return the file of the plain layer."""
    own = layer_function_context(plan)
    return {f"{own['module']}.py": render("layer_function.py.jinja", own)}


def _around(
    layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan, shipped: Shipped | None
) -> dict[str, str]:
    """Return the files around the maps: functions, modules and helpers."""
    shared = shared_context(layer, plans, shipped)
    samples = effective_update(layer).samples
    result = {
        "self_factors.py": render("layer_self_factors.py.jinja", self_factor_file_context(factor, shared, samples))
    }
    for name in ("functional", "modules"):
        result[f"{name}.py"] = render(f"layer_{name}.py.jinja", shared)
    result["__init__.py"] = render("layer_init.py.jinja", shared)
    result["py.typed"] = ""
    helpers = ["operands.py", "rows.py", "backends.py", "leaf.py", "positions.py", "samples.py"]
    helpers += [f"{shipped.layout.module}.py"] if shipped is not None and shipped.layout else []
    return placed(result) | torch_folder() | targets_file() | shared_runtime(*helpers)
