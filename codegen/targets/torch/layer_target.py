"""The files of the torch target for one layer of any kind: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.layer_plan import LayerPlan
from codegen.targets.torch.layer_file import layer_function_context
from codegen.targets.torch.layer_words import shared_context
from codegen.targets.torch.render import render
from derive.forward_map import Layer


def layer_files(layer: Layer, plans: Sequence[LayerPlan]) -> dict[str, str]:
    """Return the text of every file by its name in the package."""
    contexts = [layer_function_context(plan) for plan in plans]
    result = {f"{c['module']}.py": render("layer_function.py.jinja", c) for c in contexts}
    shared = shared_context(layer, plans)
    for name in ("functional", "modules"):
        result[f"{name}.py"] = render(f"layer_{name}.py.jinja", shared)
    result["__init__.py"] = render("layer_init.py.jinja", shared)
    helpers = ["_operands.py", "_rows.py", "_backends.py", "_samples.py"] + (["_positions.py"] if any(c["positions"] for c in contexts) else [])
    result |= {name: render(f"{name}.jinja", {}) for name in helpers}
    result["py.typed"] = ""
    return result
