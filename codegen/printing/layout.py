"""The memory layout of a program's values in the torch target, and the layouts that it refuses.

The indices of a value decide, where ``s`` is the batch index:

    (s, j)     a matrix, one row per sample            (s,)     a column, so that it scales rows by broadcasting
    (i, j)     a parameter matrix                        (i,)     a vector, so that it adds to every row by broadcasting
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sympy import Indexed, Symbol

from codegen.ir.program import Program, Value, name_of
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH


class LayoutError(UsageError):
    """A value that the torch target cannot lay out or broadcast; the message names it."""


def is_column(indices: Sequence[Index]) -> bool:
    """Return whether values along these indices are stored as a column."""
    return len(indices) == 1 and indices[0].size == BATCH.size


def check_rank(program: Program) -> None:
    """Raise ``LayoutError`` for a value with more axes than a matrix."""
    for value in program.values.values():
        if len(value.indices) > 2:
            raise LayoutError(
                f"program {program.name!r}: {value.name!r} has {len(value.indices)} axes; this printer supports two"
            )


def broadcast(entry: Indexed, target: Value) -> str:
    """Return the text of an entry's tensor shaped to broadcast to the target's layout."""
    name, own, wanted = name_of(entry), tuple(entry.indices), target.indices
    if own == wanted or is_column(own) or own == wanted[-1:]:
        return name
    if len(own) == 1 and own == wanted[:1]:
        return f"{name}.unsqueeze(-1)"
    if own == tuple(reversed(wanted)):
        return f"{name}.t()"
    raise LayoutError(f"no layout for {entry} inside {target.entry}")


def sizes(program: Program) -> Mapping[Symbol, str]:
    """Return code that reads each axis length off an input's shape."""
    found: dict[Symbol, str] = {}
    for value in program.inputs:
        for axis, index in enumerate(value.indices):
            if isinstance(index.size, Symbol):
                found.setdefault(index.size, f"{value.name}.shape[{axis}]")
    return found
