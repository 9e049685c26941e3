"""The file of rows of unit length, ``kernels/torch/unit.py``, with its operators for compilers."""

from __future__ import annotations

from typing import Any

from codegen.ir.program import Program
from codegen.plans.unit_rows import SCALE, unit_rows
from codegen.printing.torch_lines import Style, TorchPrinter
from codegen.printing.unit_names import unit_context


def unit_file_context() -> dict[str, Any]:
    """Return the context of ``unit.py.jinja``."""
    unit = unit_rows()
    scale, tangent = _lines(unit.scale, own=None), _lines(unit.tangent)
    return {
        **unit_context(unit),
        "uses_math": "math." in str(scale),
        "scale_lines": scale,
        "forward_lines": _lines(unit.forward),
        "own_forward_lines": _lines(unit.forward, own=None),
        "unit": unit.forward.outputs[0],
        "backward_lines": _lines(unit.backward, own=None),
        "scale_backward_lines": _lines(unit.scale_backward, own=None),
        "tangent_lines": tangent,
        "scale_tangent_lines": [line for line in _lines(unit.scale_tangent, own=None) if line not in tangent],
        "gradient": unit.backward.outputs[0],
        "more": unit.scale_backward.outputs[0],
        "tangents": (unit.tangent.outputs[0], unit.scale_tangent.outputs[0]),
    }


def _lines(program: Program, own: str | None = "x") -> list[str]:
    """Print for any number of axes before the last; with ``own`` results have the type of that tensor."""
    printer = TorchPrinter(program, Style(own=own, wide=frozenset({SCALE})))
    return [text for line in printer.lines() for text in line.printed()]
