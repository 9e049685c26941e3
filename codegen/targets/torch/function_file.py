"""The file of one plan: its scale, its gradients and its ``torch.autograd.Function``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codegen.ir.program import Program, name_of
from codegen.plans.rows import Plan
from codegen.printing.naming import branch, equations, forward_equation, listed
from codegen.printing.torch_lines import Style, TorchPrinter, printed
from codegen.targets.torch.row_gradients import in_place_context


def function_context(plan: Plan, with_bias: bool) -> dict[str, Any]:
    """Return what ``function.py.jinja`` needs."""
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
        **lines,
        **blocks,
    }


def heading_context(plan: Plan, with_bias: bool) -> dict[str, Any]:
    """Return the names, sentences and signatures of the map, which files of other targets need as well."""
    inputs = plan.input_names
    return {
        **branch(plan, with_bias),
        **_signatures(plan),
        "title": f"{plan.name}{'' if with_bias else ' without a bias'}",
        "formula": forward_equation(plan),
        "digest": plan.digest,
        "parameters": listed([f"``{name}``" for name in inputs]),
        "inputs": ", ".join(f"``{name}`` {_shape(plan, name)}" for name in inputs),
    }


def _signatures(plan: Plan) -> dict[str, Any]:
    scale, kappa, inputs, saved = plan.scale_name, str(plan.kappa), plan.input_names, plan.saved_names
    scale_arguments = [v.name for v in plan.scale.inputs] + [str(s) for s in plan.scale.scalars]
    backward, squares = plan.backward.program, plan.plain_scale.instructions[0].target.name
    gradient = [*(v.name for v in backward.inputs), *(str(s) for s in backward.scalars)]
    results = backward.outputs
    return {
        "scale_name": scale,
        "squares": squares,
        "plain_arguments": _typed([squares, kappa], kappa),
        "plain_call": f"{squares}, {kappa}",
        "scale_arguments": [*_typed(scale_arguments, kappa), "length: Length = squared_length"],
        "scale_call": ", ".join(scale_arguments),
        "gradient_arguments": [*_typed(gradient, kappa), "wanted: tuple[bool, ...]"],
        "gradient_call": ", ".join(gradient),
        "forward_arguments": _typed([*inputs, kappa], kappa),
        "portable_call": ", ".join([*inputs, kappa]),
        "tensors": ", ".join(inputs),
        "forward_names": ", ".join((*(n if n in saved else "_" for n in inputs), "ctx.kappa")),
        "saved_inputs": ", ".join(saved),
        "none_yet": " = ".join(results),
        "returned": ", ".join(results),
        "output": plan.forward.outputs[0],
        "tangent_arguments": ["ctx: Any", *_typed(plan.tangent_names, kappa), "_: None"],
        "tangent_output": plan.tangent.outputs[0],
    }


def _imports(printed: str) -> dict[str, bool]:
    return {"uses_math": "math." in printed, "uses_functional": "F." in printed}


def _typed(names: Sequence[str], scalar: str) -> list[str]:
    return [f"{name}: {'float' if name == scalar else 'Tensor'}" for name in names]


def _shape(plan: Plan, name: str) -> str:
    """Return a tensor's declared axes, as ``(B, n)``."""
    declared = {t.name: t for t in (*plan.layer.inputs, *plan.layer.parameters)}
    return f"({', '.join(str(a) for a in declared[name].axes)})"


def _lines(program: Program, style: Style) -> list[str]:
    return printed(TorchPrinter(program, style).lines())


def _forward_lines(plan: Plan, style: Style, recorded: Style) -> dict[str, list[str]]:
    """Return the lines of the output, those first that do without the scale; the others also for what records them."""
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
    """Return the lines that several results share, then for each result, by its position, the lines of its own."""
    needs = {o: {i.target.name for i in program.needed_for([o])} for o in program.outputs}
    shared = {n for o, names in needs.items() for n in names if any(n in needs[p] for p in needs if p != o)}
    printer = TorchPrinter(program, style)
    common = printed(printer.lines(shared))
    own = [printer.lines(needs[o] - shared) for o in program.outputs]
    blocks = [{"position": k, "lines": printed(lines)} for k, lines in enumerate(own)]
    return {"shared": common, "blocks": blocks}
