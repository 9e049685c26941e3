"""The file of one plan: its scale, its gradients and its ``torch.autograd.Function``."""

from __future__ import annotations

from typing import Any

from codegen.ir.program import Program, name_of
from codegen.plans.rows import Plan
from codegen.printing.naming import equations
from codegen.printing.row_headings import heading_context
from codegen.printing.torch_lines import Style, TorchPrinter, printed
from codegen.targets.torch.row_gradients import in_place_context

_ROW_HELPERS = (
    "is_scaled_first",
    "read_once",
    "row_blocks",
    "safe_squares",
    "scaled_length",
    "squared_length",
    "with_far_rows",
)


def function_context(plan: Plan, with_bias: bool) -> dict[str, Any]:
    """Return the context of ``function.py.jinja``."""
    scale, backward = plan.scale_name, plan.backward.program
    inputs = plan.input_names
    portable = Style(own=inputs[0], wide=frozenset({scale}))
    in_place = Style(in_place=True, wide=frozenset({scale}))
    lines = {
        "scale_lines": _lines(plan.scale, Style()),
        "plain_scale_lines": printed(TorchPrinter(plan.plain_scale, in_place).lines({scale})),
        **_forward_lines(plan, in_place, Style(wide=in_place.wide)),
        "forward_scaled_lines": _lines(plan.forward_scaled, portable),
        "tangent_lines": _lines(plan.tangent, portable),
    }
    blocks = {"portable": _blocks(backward, portable), "in_place": in_place_context(plan.backward, in_place)}
    return {
        **heading_context(plan, with_bias),
        "scale_formula": next(e for e in equations(plan) if e.startswith(f"{scale}[")),
        **_imports(str((lines, blocks))),
        "row_helpers": sorted([*_ROW_HELPERS, *(["weighted_sum"] if "weighted_sum(" in str(blocks) else [])]),
        **lines,
        **blocks,
    }


def _imports(printed: str) -> dict[str, bool]:
    return {"uses_math": "math." in printed, "uses_functional": "F." in printed}


def _lines(program: Program, style: Style) -> list[str]:
    return printed(TorchPrinter(program, style).lines())


def _forward_lines(plan: Plan, style: Style, recorded: Style) -> dict[str, list[str]]:
    """Return the lines of the output: first those that do not need the scale, then the rest, plain and recorded."""
    program, scale = plan.forward, plan.scale_name
    scaled = {scale}
    for instruction in program.instructions:
        if any(name_of(e) in scaled for e in instruction.reads):
            scaled.add(instruction.target.name)
    printer = TorchPrinter(program, style)
    recorder = TorchPrinter(program, recorded)
    before = {i.target.name for i in program.instructions} - scaled
    return {
        "product_lines": printed(printer.lines(before)),
        "forward_lines": printed(printer.lines(scaled)),
        "recorded_lines": printed(recorder.lines(scaled)),
    }


def _blocks(program: Program, style: Style) -> dict[str, Any]:
    """Return the lines that several results share, and for each result, by its position, its own lines."""
    needs = {o: {i.target.name for i in program.needed_for([o])} for o in program.outputs}
    shared = {n for o, names in needs.items() for n in names if any(n in needs[p] for p in needs if p != o)}
    printer = TorchPrinter(program, style)
    common = printed(printer.lines(shared))
    own = [printer.lines(needs[o] - shared) for o in program.outputs]
    blocks = [{"position": k, "lines": printed(lines)} for k, lines in enumerate(own)]
    return {"shared": common, "blocks": blocks}
