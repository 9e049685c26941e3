"""Kernels leave out what far rows give, and say that there were some; the lines around them then ask torch for it.

A far row (``codegen.ir.units``) has a negative scale. A kernel that makes one notes it, and a kernel that reads one
takes zero in its place: for any other row that is one comparison, and no entry of it costs more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codegen.ir.program import Pointwise
from codegen.ir.units import InUnits
from codegen.plans.rows import Plan
from codegen.printing.c_names import identifier

_CALL = re.compile(r"^kernels\.(\w+)\(")


def scale_in_units(plan: Plan) -> str:
    """Return the name of the scale that is kept of a row, nothing where no row of the map can be far."""
    made = plan.scale.producers[plan.scale_name]
    has_units = isinstance(made, Pointwise) and made.expression.has(InUnits)
    return identifier(plan.scale_name) if has_units else ""


def with_far_rows(kernel: Mapping[str, Any], scale: str) -> Mapping[str, Any]:
    """Return the context of a kernel with ``far``: the scale if it makes or reads that, else nothing."""
    read = f"= widen({scale}_data[row]);"
    reads = [line.replace(read, f"= without_far({read[2:-1]});") for line in kernel.get("reads", ())]
    meets = scale in (*kernel.get("columns", ()), *kernel.get("results", ())) or reads != [*kernel.get("reads", ())]
    return {**kernel, "far": scale if scale and meets else "", "reads": reads}


def answered(lines: Sequence[str], kernels: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return lines of Python in which the first call of a kernel that meets far rows answers whether there were any."""
    meeting = {kernel["name"] for kernel in kernels if kernel["far"]}
    found, known = [], False
    for line in lines:
        call = _CALL.match(line)
        answers = not known and call is not None and call[1] in meeting
        known = known or answers
        found.append(f"far = {line}" if answers else line)
    return found
