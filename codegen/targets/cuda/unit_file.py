"""The files of rows of unit length: forward and backward kernels for queries and keys at once, and launchers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codegen.ir.program import Magnitude, Pointwise, Program, Value
from codegen.plans.unit_rows import SCALE, unit_rows
from codegen.printing.c_kernels import row_text
from codegen.printing.c_names import identifier
from codegen.printing.c_storage import ELEMENT, WIDE, is_column
from codegen.printing.unit_names import MODULE, unit_context
from codegen.schedule.rows import Rows, is_row_work

SOURCE = f"{MODULE}.cu"


def unit_file_context() -> dict[str, Any]:
    """Return the context of ``unit.py.jinja`` and ``unit.cu.jinja``."""
    unit = unit_rows()
    return {
        **unit_context(unit),
        "plain": MODULE,
        "source": SOURCE,
        "kernels": [_kernel("unit_forward", _divided(unit.whole)), _kernel("unit_backward", unit.backward)],
    }


def _divided(program: Program) -> Program:
    """Return a program that divides by the magnitude, then by the root: the product of both may leave the range."""
    (peak,) = (i.target for i in program.instructions if isinstance(i, Magnitude))
    own = program.producers[SCALE]
    assert isinstance(own, Pointwise) and own.expression.has(1 / peak.entry)
    inverse = Value("inverse", peak.indices)
    parts = Pointwise(inverse, 1 / peak.entry), replace(own, expression=own.expression * peak.entry * inverse.entry)
    instructions = [part for i in program.instructions for part in (parts if i is own else (i,))]
    return replace(program, instructions=tuple(instructions))


def _kernel(name: str, program: Program) -> dict[str, Any]:
    """Return a kernel's lines in the form of ``kernels.cu.jinja``, and its tensors: matrices and numbers per row."""
    work = Rows(tuple(i for i in program.instructions if is_row_work(i)), program.outputs)
    assert len(work.instructions) == len(program.instructions), "an instruction does not work inside a row"
    types = {v.name: WIDE if is_column(v) else ELEMENT for v in program.values.values()}
    kernel = row_text(program, work, types, name)
    (width,) = kernel.lengths
    values = [program.values[n] for n in kernel.tensors]
    return {
        **kernel.context,
        "name": name,
        "width": identifier(str(width)),
        "matrices": [_tensor(v, program) for v in values if not is_column(v)],
        "numbers": [_tensor(v, program) for v in values if is_column(v)],
    }


def _tensor(value: Value, program: Program) -> dict[str, str]:
    """Return a tensor's name and its type in the arguments, which is const if it is only read."""
    written = value.name in program.outputs
    kind = WIDE if is_column(value) else ELEMENT
    return {"name": identifier(value.name), "type": f"{'' if written else 'const '}{kind}"}
