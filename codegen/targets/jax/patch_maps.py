"""The files of maps of convolutions for JAX."""

from __future__ import annotations

from functools import cache

from codegen.plans.layers import LayerPlan, layer_plan
from codegen.plans.patch_maps import PatchMap, patch_layer
from codegen.printing.places import in_folder, target_runtime
from codegen.targets.jax.map_file import patch_map_context
from codegen.targets.jax.render import render
from derive.cancel import solve


@cache
def patch_plan_of(chosen: PatchMap) -> LayerPlan:
    """Return the plan of a convolution's map as a plan of any layer, with sums over patches as convolutions."""
    layer = patch_layer(chosen.with_bias, chosen.centred, chosen.transposed)
    return layer_plan(solve(layer)[chosen.plan.name], convolutions=True)


def patch_map_files(maps: tuple[PatchMap, ...]) -> dict[str, str]:
    """Return the files of maps of convolutions, and the files that they share."""
    contexts = [patch_map_context(m, patch_plan_of(m)) for m in maps]
    texts = {f"{c['module']}.py": render("map.py.jinja", c) for c in contexts}
    return in_folder("jax", texts) | target_runtime("jax", "wide.py", "patches.py", "samples.py")
