"""The roles of axes: ``s`` the rows, ``j`` the columns of the input, ``i`` the units of the output.

An axis has the role of its length: the batch size, the input's last axis, the output's last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sympy import Expr, Symbol

from codegen.ir.program import Program
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH

RANGES = {"s": "rows", "j": "columns", "i": "units"}  # the positions along a role's axis in a kernel
BLOCKS = {"s": "ROWS", "j": "COLUMNS", "i": "UNITS"}  # the number of them in a tile

Role = str


class ScheduleError(UsageError):
    """A program that these kernels cannot compute; the message names the value and the fix."""


@dataclass(frozen=True)
class Roles:
    """The axis lengths with a role: distinct symbols."""

    rows: Symbol
    columns: Symbol
    units: Symbol

    @property
    def sizes(self) -> dict[Role, str]:
        """The name of each role's length."""
        return {"s": str(self.rows), "j": str(self.columns), "i": str(self.units)}

    def of(self, indices: Sequence[Index]) -> tuple[Role, ...]:
        """Return the role of each index; raise ``ScheduleError`` for a length without a role."""
        known = {self.rows: "s", self.columns: "j", self.units: "i"}
        for index in indices:
            if index.size not in known:
                raise ScheduleError(f"the triton target has no loop for an axis of length {index.size}; use torch")
        return tuple(known[index.size] for index in indices)


def roles(forward: Program) -> Roles:
    """Return the roles of a forward program's axes; its first input and its output are matrices, one row per sample."""
    source, output = forward.inputs[0], forward.values[forward.outputs[0]]
    lengths: list[Expr] = [BATCH.size, source.indices[-1].size, output.indices[-1].size]
    shapes = [[i.size for i in value.indices] for value in (source, output)]
    distinct = len(set(lengths)) == 3 and all(isinstance(length, Symbol) for length in lengths)
    if not distinct or shapes != [[lengths[0], lengths[1]], [lengths[0], lengths[2]]]:
        raise ScheduleError(
            f"program {forward.name!r}: the triton target needs an input and an output with one axis after the batch, "
            "of two different declared sizes; use torch"
        )
    return Roles(*lengths)
