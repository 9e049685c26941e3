"""The files of the CUDA target for one layer of any form: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.plans.layers import LayerPlan
from codegen.printing.places import folder, in_folder, shared_runtime, target_runtime
from codegen.targets.cuda.layer_file import layer_kernel_context
from codegen.targets.cuda.target import render
from derive.forward_map import Layer


def layer_files(layer: Layer, plans: Sequence[LayerPlan]) -> dict[str, str]:
    """Return the text of every file by its path in the package, which also needs the files of the torch target.

    Raises ``UsageError`` for a map with arithmetic that no kernel supports.
    """
    result = {}
    for plan in plans:
        context = layer_kernel_context(plan)
        result[context["source"]] = render("layer_kernels.cu.jinja", context)
        result[f"{context['module']}.py"] = render("layer_map.py.jinja", context)
    own = target_runtime("cuda", "rows.cuh", "compile.py", "launch.py", "samples.py")
    result = in_folder("cuda", result) | folder("cuda", "The maps by kernels in CUDA C++") | own
    return result | shared_runtime("kernel_cache.py", "operators.py")
