"""Solve for the maps at an angle t(r) from the user, and explain an angle whose limits cannot be determined."""

from __future__ import annotations

from sympy import Expr

from derive.cancel import Solutions, solve
from derive.errors import UsageError
from derive.export.prose import plain
from derive.forward_map import Layer


def solve_at(layer: Layer, angle: Expr | None) -> Solutions:
    """Return the maps of a layer; with an angle, also the family's member at it.

    Raises ``UsageError`` for an angle whose limits are not known, or a layer without a family.
    """
    try:
        solutions = solve(layer, angle)
    except (NotImplementedError, TypeError, ValueError) as problem:
        if angle is None or isinstance(problem, UsageError):
            raise
        raise UsageError(
            f"the limits of the angle {angle} at zero or at infinity are not known; write it without max and abs, or "
            "with functions that converge"
        ) from problem
    if angle is not None and "angle" not in {m.name for m in solutions}:
        reasons = "; ".join(plain(r.reason) for r in solutions.refusals)
        raise UsageError(f"layer {layer.name!r} has no family of angles: {reasons}")
    return solutions
