"""Names and sentences that the files of rows of unit length share in all targets."""

from __future__ import annotations

from typing import Any

from codegen.plans.unit_rows import UnitRows
from derive.export.text import text

MODULE = "unit"
FUNCTION_CLASS = "UnitPair"


def unit_context(unit: UnitRows) -> dict[str, Any]:
    """Return the map and its intermediate in the formula language, the digest, and the names of the class."""
    definitions = [*unit.layer.definitions, unit.layer.output]
    return {
        "formulas": [f"{text(d.entry)} = {text(d.expression)}" for d in reversed(definitions)],
        "digest": unit.digest,
        "function_class": FUNCTION_CLASS,
    }
