"""Differences as numbers to compare with a bound; a NaN counts as infinitely wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from verify.checks.evaluate import Array


def relative_error(value: Array, expected: Array, scale: float | None = None) -> float:
    """Return the largest absolute difference divided by ``scale`` (default: the largest absolute expected entry).

    Infinite where shapes differ or an entry is not finite; 0 for two empty arrays.
    """
    if value.shape != expected.shape:
        return math.inf
    if value.size == 0:
        return 0.0
    difference = float(np.abs(value - expected).max())
    scale = float(np.abs(expected).max()) if scale is None else scale
    if not math.isfinite(difference) or not math.isfinite(scale):
        return math.inf
    if scale == 0:
        return math.inf if difference else 0.0
    return difference / scale


def largest(errors: Iterable[float]) -> float:
    """Return the largest error; unlike ``max``, it does not ignore NaN."""
    return max((math.inf if math.isnan(error) else error for error in errors), default=math.inf)
