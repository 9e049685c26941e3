"""The type of each value in memory: ``Element``, the type of the input, or ``Wide``, at least float32.

Inputs, parameters and results have the type of the input. A scalar of a row is wide. A matrix product that is not a
result stays wide, to avoid one rounding before the result's own; operands of a matrix product are elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from codegen.ir.program import Program, Value, name_of
from codegen.schedule.rows import Product, Step, in_batch

ELEMENT, WIDE = "Element", "Wide"


def storage(program: Program, steps: Sequence[Step]) -> dict[str, str]:
    """Return the type of every value that a step reads from or writes to memory."""
    factors = {name_of(o) for step in steps if isinstance(step, Product) for o in step.instruction.operands}
    given = {v.name for v in program.inputs} | set(program.outputs) | factors
    return {name: _type(value, name in given) for name, value in program.values.items()}


def is_column(value: Value) -> bool:
    """Return whether a value has one number per row."""
    return len(value.indices) == 1 and in_batch(value.indices)


def _type(value: Value, given: bool) -> str:
    return ELEMENT if given and not is_column(value) else WIDE
