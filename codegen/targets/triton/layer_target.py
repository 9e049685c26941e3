"""The files of the Triton target for one layer of any form: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.plans.layers import LayerPlan
from codegen.printing.places import folder, in_folder, shared_runtime, target_runtime
from codegen.targets.triton.layer_file import layer_map_context
from codegen.targets.triton.target import render
from derive.forward_map import Layer


def layer_files(layer: Layer, plans: Sequence[LayerPlan]) -> dict[str, str]:
    """Return the text of every file by its path in the package, which also needs the files of the torch target.

    Raises ``UsageError`` for a map with arithmetic that no kernel supports.
    """
    contexts = [layer_map_context(plan) for plan in plans]
    result = {}
    for context in contexts:
        kernels = render("layer_kernels.jinja", context).strip("\n")
        source = {"source": context["module"], "source_of": kernels}
        result[f"{context['module']}.py"] = render("layer_map.py.jinja", {**context, **source})
    functions = ["functions.py"] if any(c["functions"] for c in contexts) else []
    own = target_runtime("triton", "tiles.py", "samples.py", *functions)
    return (
        in_folder("triton", result)
        | folder("triton", "The maps by Triton's kernels")
        | own
        | shared_runtime("operators.py")
    )
