"""The file of rows of unit length: a forward and a backward kernel, each for queries and keys at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Symbol

from codegen.ir.program import Program
from codegen.plans.unit_rows import unit_rows
from codegen.printing.unit_names import MODULE, unit_context
from codegen.targets.triton.printer import TilePrinter
from codegen.targets.triton.roles import Roles
from derive.forward_map import BATCH

_AXES = ("N", "H", "T", "J")  # sequences, heads, tokens, and the entries of a row
_SIZES = ("ROWS", "COLUMNS")


def unit_file_context() -> dict[str, Any]:
    """Return the context of ``unit.py.jinja``; raise ``ScheduleError`` for a map that is not one of rows."""
    unit = unit_rows()
    return {
        **unit_context(unit),
        "plain": MODULE,
        "kernels": [_kernel("forward", unit.whole), _kernel("backward", unit.backward)],
    }


def _kernel(name: str, program: Program) -> dict[str, Any]:
    """Return a kernel's arguments, those for the queries and the keys, and its lines on a tile of whole rows."""
    values = program.values
    wanted = [*(v.name for v in program.inputs), *program.outputs]
    matrices = [n for n in sorted(wanted, key=lambda n: n in program.outputs) if len(values[n].indices) == 2]
    numbers = [n for n in wanted if n not in matrices]
    width = values[matrices[0]].indices[1].size
    lines = TilePrinter(Roles(BATCH.size, width, Symbol("units")), program.inputs).lines(program.instructions)
    settings = [word for word in ("FLOOR", "WIDE") if word in str(lines) or word == "WIDE"]
    fixed = [*settings, *_SIZES]
    sides = {side: _side(matrices, numbers, f"{side}_") for side in ("q", "k")}
    constant = [f"{word}: tl.constexpr" for word in fixed]
    return {
        "name": name,
        "own": ["block", "heads", "n", *_side(matrices, numbers, ""), *constant],
        "arguments": ["heads", "n", *sides["q"], *sides["k"], *constant],
        "calls": {side: [*names, *fixed] for side, names in sides.items()},
        "loads": [n for n in matrices if n not in program.outputs],
        "stores": [n for n in matrices if n in program.outputs],
        "numbers_read": [n for n in numbers if n not in program.outputs],
        "numbers_written": [n for n in numbers if n in program.outputs],
        "lines": lines,
        "settings": settings,
    }


def _side(matrices: Sequence[str], numbers: Sequence[str], side: str) -> list[str]:
    """Return the arguments for the tensors of one side: addresses, numbers of rows and tokens, strides."""
    pointers = [f"{side}{name}_ptr" for name in (*matrices, *numbers)]
    strides = [f"{side}{name}_{axis}" for name in matrices for axis in _AXES]
    return [*pointers, f"{side}rows", f"{side}tokens", *strides]
