"""The file of self factors of a layer of any form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from codegen.lower.safe_names import local_sizes
from codegen.plans.plain import SelfFactorPlan
from codegen.printing.layer_function import bare_code, position_helpers
from codegen.printing.layer_words import factor_lengths, factor_words
from codegen.printing.torch_layer_lines import LayerPrinter
from derive.algebra.index import Index
from derive.export.text import text


def self_factor_file_context(plan: SelfFactorPlan, shared: dict[str, Any], samples: Sequence[Index]) -> dict[str, Any]:
    """Return the context of ``layer_self_factors.py.jinja``; ``samples`` are the sample axes, the batch first."""
    layer, program = plan.layer, plan.program
    sizes = local_sizes(layer, program.values)
    tensors = [plan.names[t.name] for t in (*layer.inputs, *layer.parameters)]
    real = [plan.names[t.name] for t in (*layer.inputs, *layer.parameters) if t.values is None]
    printer = LayerPrinter(program, real[0], sizes, plan.types)
    lines = [text for line in printer.lines() for text in line.printed()]
    code = bare_code(lines)
    used = [str(size) for size, name in sizes.items() if re.search(rf"\b{name}\b", code)]
    names = [sizes[s] for s in sizes if str(s) in used]
    quoted = ", ".join(f'"{name}"' for name in used)
    return {
        **shared,
        "formula": f"{text(layer.output.entry)} = {text(layer.output.expression)}",
        "about": "One step of gradient descent with rate eta moves the activation of a sample by -eta times this, "
        "times the sample's own gradient, if its input does not change.",
        "digest": plan.digest,
        "plain": next(m["module_class"] for m in shared["maps"] if not m["has_kappa"]),
        "inputs": [f"{t.name}: Tensor" for t in layer.inputs],
        "parameter_table": re.sub(r"\((\w+), \(", r"(module.\1, (", shared["parameter_table"]),
        "given_table": re.sub(r": (\w+)", r": module.\1", shared["given_table"]),
        "shape_words": factor_words(plan, samples),
        "factor_lengths": factor_lengths(plan, samples),
        "settings": f", *samples.lengths({quoted})" if used else "",
        "arguments": [*(f"{name}: Tensor" for name in tensors), *(f"{name}: int" for name in names)],
        "lines": lines,
        "result": program.outputs[0],
        "uses_math": "math." in code,
        "uses_functional": "F." in code,
        "positions": position_helpers(code),
    }
