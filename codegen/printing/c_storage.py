"""In which type a value lies in memory: ``Element``, the type of the input, or ``Wide``, at least float32.

Inputs, parameters and results have the type of the input. A scalar of a row is wide. A product of matrices that is not
a result stays wide, so that its rounding is the only one before the result's own; what a product reads is an element.
"""

from __future__ import annotations

from collections.abc import Sequence

from codegen.ir.program import Program, Value, name_of
from codegen.schedule.rows import Product, Step, in_batch

ELEMENT, WIDE = "Element", "Wide"


def storage(program: Program, steps: Sequence[Step]) -> dict[str, str]:
    """Return the type of every value that a step reads or leaves in memory."""
    factors = {name_of(o) for step in steps if isinstance(step, Product) for o in step.instruction.operands}
    given = {v.name for v in program.inputs} | set(program.outputs) | factors
    return {name: _type(value, name in given) for name, value in program.values.items()}


def is_column(value: Value) -> bool:
    """Return whether a value is one number a row."""
    return len(value.indices) == 1 and in_batch(value.indices)


def _type(value: Value, given: bool) -> str:
    return ELEMENT if given and not is_column(value) else WIDE
