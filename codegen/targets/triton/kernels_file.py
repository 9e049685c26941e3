"""The file of one plan: the template context of each kernel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from codegen.ir.program import Instruction, Magnitude, Pointwise, Value, name_of
from codegen.passes.row_units import RowUnits, row_units
from codegen.plans.rows import Plan
from codegen.printing.layout import is_column
from codegen.printing.naming import Borrowed, branch, forward_equation, listed, places, snake
from codegen.targets.triton.expressions import HELPERS
from codegen.targets.triton.printer import TilePrinter
from codegen.targets.triton.roles import Roles
from codegen.targets.triton.schedule import Pass, Schedule, schedule
from derive.forward_map import BATCH

_PRODUCT = ("WIDE", "PRECISION", "ROWS", "COLUMNS", "UNITS")


def map_context(plan: Plan, with_bias: bool, borrowed: Borrowed | None = None) -> dict[str, Any]:
    """Return the context of ``map.py.jinja``; raise ``ScheduleError`` for a map that these kernels cannot compute."""
    parts = schedule(plan.scale, plan.forward, plan.backward.program)
    kernels = kernel_contexts(parts, plan)
    names = _names(plan, parts, with_bias)
    launch = _launch(plan, parts, names, borrowed or Borrowed())
    used = str((kernels, launch))
    return {**names, **kernels, "launch": launch, "uses_math": "math." in used, "helpers": _helpers(used)}


def _helpers(text: str) -> list[str]:
    """Return the functions of ``runtime.functions`` (which Triton lacks) that a text calls."""
    return [name for name in HELPERS if re.search(rf"(?<![\w.]){name}\(", text)]


def kernel_contexts(parts: Schedule, plan: Plan) -> dict[str, Any]:
    """Return the lines, arguments and calls of every kernel."""
    units = row_units(plan.scale, plan.forward)
    return {
        "units": units,
        "scale": _scale(parts, units),
        "forward": _forward(parts, plan, units),
        "forward_rows": _forward_rows(parts, plan, units),
        "gradient_rows": _gradient_rows(parts, plan),
        "gradient_product": _gradient_product(parts, plan),
        "finish": _finish(parts, plan),
        "finish_rows": _finish_rows(parts, plan),
        "weight": _weight(parts, plan),
    }


def _head(
    roles: Roles, printer: TilePrinter, tensors: Sequence[Value], results: Sequence[str], settings: Sequence[str]
) -> dict[str, list[str]]:
    """Return a kernel's parameters, and the arguments that a launcher passes, in the same order."""
    names = [v.name for v in tensors]
    axes = {role for v in tensors for role in roles.of(v.indices)}
    sizes = [size for role, size in roles.sizes.items() if role in axes]
    strided = [v for v in tensors if roles.of(v.indices) != ("s",)]
    strides = [f"{v.name}_{role}" for v in strided for role in roles.of(v.indices)]
    fixed = [*(name for name, _ in printer.constants), *settings]
    given = [*(f"{name}={text}" for name, text in printer.constants), *(f"{s}={s}" for s in settings if s != "GROUP")]
    given += ["GROUP=8"] if "GROUP" in settings else []
    return {
        "arguments": [
            *(f"{name}_ptr" for name in (*names, *results)),
            *sizes,
            *strides,
            *(f"{name}: tl.constexpr" for name in fixed),
        ],
        "call": [*names, *results, *sizes, *(f"*{v.name}.stride()" for v in strided), *given],
    }


def _read(instructions: Iterable[Instruction], memory: Iterable[Value]) -> list[Value]:
    """Return the values in memory that the instructions read."""
    names = {name_of(e) for i in instructions for e in i.reads}
    return [v for v in memory if v.name in names]


def _rows_of(roles: Roles, values: Iterable[Value]) -> list[str]:
    """Return the names of the values with one number per row."""
    return [v.name for v in values if roles.of(v.indices) == ("s",)]


def _row_loads(printer: TilePrinter, names: Iterable[str]) -> list[str]:
    return [f"{name} = {printer.load(name)}" for name in names]


def _walk(printer: TilePrinter, part: Pass, known: Sequence[str]) -> dict[str, Any]:
    return {
        "walks": part.walks,
        "before": printer.lines(part.before),
        "started": printer.started(part.sums),
        "loads": printer.loads([*part.tile, *part.sums], known),
        "lines": printer.lines(part.tiles, onward=True),
    }


def _scale(parts: Schedule, units: RowUnits | None) -> dict[str, Any]:
    printer = TilePrinter(parts.roles, parts.scale.inputs)
    passes = [_walk(printer, p, []) for p in parts.scale_passes]
    floor = ["FLOOR"] if any(isinstance(i, Magnitude) for i in parts.scale.instructions) else []
    outputs, settings = parts.scale.outputs, [*floor, "WIDE", "ROWS", "COLUMNS"]
    far = printer.lines(units.steps) if units else []
    stored = [*outputs, *([units.scaled.name] if units else [])]
    head = _head(parts.roles, printer, parts.scale.inputs, stored, settings)
    words = listed([f"``{name}``" for name in outputs])
    return {**head, "passes": passes, "outputs": outputs, "far": far, "stored": stored, "words": words}


def _forward(parts: Schedule, plan: Plan, units: RowUnits | None) -> dict[str, Any]:
    product, memory = parts.forward, [*plan.forward.inputs, *([units.scaled] if units else [])]
    printer, after = TilePrinter(parts.roles, memory), _after(parts, units)
    used = _read([*product.before, product.contract, *product.after, *after], memory)
    rows = _rows_of(parts.roles, [units.scaled, *used] if units else _read(product.before, memory))
    context = {
        "row_loads": _row_loads(printer, dict.fromkeys(rows)),
        "started": printer.started([product.contract]),
        "loads": [
            *printer.tile_loads(product.contract),
            *printer.loads(product.before, rows),
            *printer.lines(product.before),
        ],
        "product": printer.product(product.contract),
        "late_loads": printer.loads(after, rows),
        "lines": printer.lines(after),
    }
    settings = [*(["FLOOR"] if units else []), *_PRODUCT, "GROUP"]
    return {**_head(parts.roles, printer, used, plan.forward.outputs, settings), **context}


def _after(parts: Schedule, units: RowUnits | None) -> Sequence[Pointwise]:
    """Return the instructions from the product to the output; the product may be in each row's unit."""
    return parts.forward.after if units is None else (units.output,)


def _forward_rows(parts: Schedule, plan: Plan, units: RowUnits | None) -> dict[str, Any]:
    product, source, scales = parts.forward, parts.scale.inputs[0], parts.scale.outputs
    memory = [v for v in plan.forward.inputs if v.name not in scales]
    printer, after = TilePrinter(parts.roles, memory), _after(parts, units)
    known = [source.name]
    loads = [line for line in printer.tile_loads(product.contract) if not line.startswith(f"{source.name}_tile ")]
    context = {
        "source_load": printer.load(source.name),
        "scale": printer.lines(parts.scale.instructions),
        "far": printer.lines(units.steps) if units else [],
        "before": printer.lines(product.before),
        "loads": loads,
        "product": printer.product(product.contract, onward=False),
        "late_loads": printer.loads(after, known),
        "lines": printer.lines(after),
    }
    settings = [*(["FLOOR"] if "FLOOR" in str(context["scale"]) else []), *_PRODUCT]
    return {**_head(parts.roles, printer, memory, [*plan.forward.outputs, *scales], settings), **context}


def _gradient_rows(parts: Schedule, plan: Plan) -> dict[str, Any] | None:
    rows = parts.gradient_rows
    if rows is None:
        return None
    every: list[Instruction] = [*rows.before, *rows.tiles]
    used = _read(every, plan.backward.program.inputs)
    printer, known = TilePrinter(parts.roles, used), _rows_of(parts.roles, used)
    row_names, unit_names = [c.target.name for c in rows.row_sums], rows.outputs
    places = [plan.backward.program.outputs.index(name) for name in unit_names]
    context = {
        "row_loads": _row_loads(printer, known),
        "before": printer.lines(rows.before),
        "started": printer.started(rows.row_sums),
        "loads": printer.loads(every, known),
        "lines": printer.lines(rows.tiles, onward=True),
        "row_outputs": row_names,
        "unit_outputs": dict(zip(unit_names, places, strict=True)),
        "words": " and ".join(
            [*(f"{name} of each row" for name in row_names), *(f"{name} of each block of rows" for name in unit_names)]
        ),
        "wanted": " or ".join([*(["wanted[0]"] if row_names else []), *(f"wanted[{k}]" for k in places)]),
    }
    return {**_head(parts.roles, printer, used, [*row_names, *unit_names], ["WIDE", "ROWS", "UNITS"]), **context}


def _gradient_product(parts: Schedule, plan: Plan) -> dict[str, Any]:
    contract = parts.input_product
    used = _read([contract], plan.backward.program.inputs)
    printer = TilePrinter(parts.roles, used)
    context = {
        "started": printer.started([contract]),
        "loads": printer.tile_loads(contract),
        "lines": printer.product(contract),
    }
    return {**_head(parts.roles, printer, used, [contract.target.name], [*_PRODUCT, "GROUP"]), **context}


def _finish(parts: Schedule, plan: Plan) -> dict[str, Any]:
    used = _read(parts.finish, [*plan.backward.program.inputs, parts.input_product.target, *_row_sums(parts)])
    printer, known = TilePrinter(parts.roles, used), _rows_of(parts.roles, used)
    loads = _row_loads(printer, known)
    passes = [_walk(printer, p, known) for p in parts.finish_passes]
    head = _head(parts.roles, printer, used, plan.backward.program.outputs[:1], ["WIDE", "ROWS", "COLUMNS"])
    return {**head, "row_loads": loads, "passes": passes}


def _finish_rows(parts: Schedule, plan: Plan) -> dict[str, Any]:
    contract = parts.input_product
    used = _read([contract, *parts.finish], [*plan.backward.program.inputs, *_row_sums(parts)])
    printer, known = TilePrinter(parts.roles, used), _rows_of(parts.roles, used)
    context = {
        "started": printer.started([contract]),
        "product_loads": printer.tile_loads(contract),
        "product": printer.product(contract),
        "loads": [*_row_loads(printer, known), *printer.loads(parts.finish, known)],
        "lines": printer.lines(parts.finish),
    }
    return {**_head(parts.roles, printer, used, plan.backward.program.outputs[:1], _PRODUCT), **context}


def _row_sums(parts: Schedule) -> list[Value]:
    return [c.target for c in parts.gradient_rows.row_sums] if parts.gradient_rows else []


def _weight(parts: Schedule, plan: Plan) -> dict[str, Any]:
    product = parts.weight
    used = _read([*product.before, product.contract, *product.after], plan.backward.program.inputs)
    printer = TilePrinter(parts.roles, used)
    context = {
        "started": printer.started([product.contract]),
        "loads": [*printer.tile_loads(product.contract), *printer.loads(product.before)],
        "before": printer.lines(product.before),
        "product": printer.product(product.contract),
        "after": printer.lines(product.after),
    }
    head = _head(parts.roles, printer, used, plan.backward.program.outputs[1:2], [*_PRODUCT, "GROUP"])
    position = next(k for k, text in enumerate(head["arguments"]) if text.endswith("constexpr"))
    head["arguments"].insert(position, "length")
    keywords = next(k for k, text in enumerate(head["call"]) if "=" in text)
    head["call"].insert(keywords, "length")
    return {**head, **context}


def _names(plan: Plan, parts: Schedule, with_bias: bool) -> dict[str, Any]:
    """Return the names and sentences that several templates use."""
    twin, sizes, inputs = branch(plan, with_bias), parts.roles.sizes, plan.input_names
    backward, suffix = plan.backward.program, "" if with_bias else " without a bias"
    matrix = next(name_of(o) for o in parts.input_product.operands if name_of(o) in inputs)
    return {
        "title": plan.name + suffix,
        "name": snake(plan.name + suffix),
        "formula": forward_equation(plan),
        "definitions": twin["definitions"],
        "digest": plan.digest,
        "plain": twin["module"],
        "module": twin["module"],
        "function_class": twin["function_class"],
        "parameters": listed([f"``{name}``" for name in inputs]),
        "B": sizes["s"],
        "n": sizes["j"],
        "m": sizes["i"],
        "source": plan.scale.inputs[0].name,
        "matrix": matrix,
        "gradient": backward.inputs[0].name,
        "output": plan.forward.outputs[0],
        "scale_name": plan.scale_name,
        "product": parts.input_product.target.name,
        "input_gradient": backward.outputs[0],
        "weight_gradient": backward.outputs[1],
        "saved_inputs": ", ".join(plan.saved_names),
        "input_names": inputs,
        "saved_places": places(plan.saved_names, inputs),
    }


def _launch(plan: Plan, parts: Schedule, names: dict[str, Any], borrowed: Borrowed) -> dict[str, Any]:
    """Return the signatures and calls of the functions that launch the kernels."""
    scalar, inputs, backward = str(plan.kappa), plan.input_names, plan.backward.program
    read = [v.name for v in backward.inputs]
    known = {v.name: v for v in (*plan.scale.inputs, *plan.forward.inputs)}
    shapes = {v.name: v.indices for v in plan.forward.inputs}
    sums = [c.name for c in _row_sums(parts)]
    pieces = [names["gradient"], names["source"], names["scale_name"], *sums, names["input_gradient"]]
    wholes = [names["matrix"], names["product"], scalar]
    gradients = ", ".join(backward.outputs)
    tensors = ", ".join(f"Tensor {name}" for name in inputs)
    row = (names["source"], names["matrix"])
    sizes = {role: f"{name}.shape[{axis}]" for name in row for axis, role in enumerate(parts.roles.of(shapes[name]))}
    return {
        "forward_arguments": [*(f"{name}: Tensor" for name in inputs), f"{scalar}: float"],
        "forward_call": ", ".join((*inputs, scalar)),
        "forward_schema": f"({tensors}, float {scalar}) -> (Tensor, Tensor)",
        "backward_arguments": [*(f"{name}: Tensor" for name in read), f"{scalar}: float", "wanted: Sequence[bool]"],
        "backward_schema": f"({', '.join(f'Tensor {name}' for name in read)}, float {scalar}, bool[] wanted) -> "
        f"({', '.join('Tensor' for _ in backward.outputs)})",
        "forward_checked": _checked([known[name] for name in inputs], names),
        "backward_checked": _checked(backward.inputs, names),
        "gradient_call": ", ".join((*read, scalar)),
        "plain_call": ", ".join(((borrowed.known or n) if n == plan.scale_name else n) for n in (*read, scalar)),
        "setup": borrowed.setup,
        "gradients": gradients,
        "gradient_types": f"tuple[{', '.join('Tensor' for _ in backward.outputs)}]",
        "pieces": ", ".join(f"{name}[rows]" for name in pieces),
        "wholes": ", ".join(wholes),
        "slab_arguments": [*(f"{name}: Tensor" for name in (*pieces, *wholes[:-1])), f"{scalar}: float"],
        "shapes": ", ".join(f"[{', '.join(sizes[r] for r in parts.roles.of(shapes[name]))}]" for name in inputs),
    }


def _checked(values: Sequence[Value], names: dict[str, Any]) -> str:
    """Return the operands that a launcher checks: each with its shape, and all but the first with their type."""
    first, *others = values
    own = f"{first.name}.dtype"
    rest = [f"({v.name}, {_shape(v, names)}, {f'wide({own})[0]' if is_column(v.indices) else own})" for v in others]
    return ", ".join((first.name, _shape(first, names), *rest))


def _shape(value: Value, names: dict[str, Any]) -> str:
    along = [names["B"] if i.size == BATCH.size else str(i.size) for i in value.indices]
    along += ["1"] if is_column(value.indices) else []
    return f"({', '.join(along)}{',' * (len(along) == 1)})"
