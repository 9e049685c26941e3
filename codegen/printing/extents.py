"""The lengths of axes and the shapes of operands in generated Python."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sympy import Symbol

from codegen.ir.program import Program, Value
from codegen.printing.layout import is_column, sizes
from derive.forward_map import BATCH


def length_name(size: Symbol) -> str:
    """Return the name of an axis length in generated lines."""
    return "rows" if size == BATCH.size else str(size)


def lengths(program: Program, lines: Iterable[str]) -> str:
    """Return the line that assigns the axis lengths of a program that the other lines use."""
    words = set(re.findall(r"\w+", " ".join(lines)))
    found = {length_name(size): text for size, text in sizes(program).items() if length_name(size) in words}
    return f"{', '.join(found)} = {', '.join(found.values())}"


def shape_text(value: Value) -> str:
    """Return the shape of a tensor in generated lines; one number per row is a column."""
    along = [length_name(i.size) for i in value.indices]
    if is_column(value.indices):
        along.append("1")
    return f"({', '.join(along)}{',' * (len(along) == 1)})"


def shapes_text(values: Iterable[Value]) -> str:
    """Return the shapes of several tensors as one tuple."""
    return f"({', '.join(map(shape_text, values))})"
