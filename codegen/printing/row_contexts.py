"""The template contexts of every map of rows: of the families, and of members at an angle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from codegen.plans.angle_rows import row_plan
from codegen.plans.rows import Plan
from codegen.printing.angle_function import borrowed
from codegen.printing.naming import AngleFamily, Borrowed, Family

MapContext = Callable[[Plan, bool, Borrowed | None], dict[str, Any]]


def row_contexts(
    map_context: MapContext, families: Sequence[Family], angles: Sequence[AngleFamily]
) -> list[dict[str, Any]]:
    """Return ``map_context(plan, with_bias, borrowed)`` of each map, in order; see ``naming.Borrowed``."""
    found = [map_context(plan, plan is family.with_bias, None) for family in families for plan in family.plans]
    return found + [map_context(row_plan(p), True, borrowed(p)) for family in angles for p in family.plans]
