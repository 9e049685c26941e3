"""The files of the C++ target for one layer of any form: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.plans.layers import LayerPlan
from codegen.printing.places import in_folder
from codegen.targets.cpp.layer_file import layer_kernel_context
from codegen.targets.cpp.target import render, target_files
from derive.forward_map import Layer


def layer_files(layer: Layer, plans: Sequence[LayerPlan]) -> dict[str, str]:
    """Return the text of every file by its path in the package, which also needs the files of the torch target.

    Raises ``UsageError`` for a map with arithmetic that no kernel supports.
    """
    result = {}
    for plan in plans:
        context = layer_kernel_context(plan)
        result[context["source"]] = render("layer_kernels.cpp.jinja", context)
        result[f"{context['module']}.py"] = render("layer_map.py.jinja", context)
    return in_folder("cpp", result) | target_files("samples.h")
