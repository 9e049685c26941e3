"""Functions that Triton lacks, written with the operations that it has."""

# mypy: disable-error-code="import-untyped, no-untyped-call, no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def atan(x):
    """Return the arc tangent: the angle is halved twice, then a power series is used."""
    inverted = tl.abs(x) > 1.0
    small = tl.where(inverted, 1.0 / tl.where(inverted, tl.abs(x), 1.0), tl.abs(x))
    half = small / (1.0 + tl.sqrt(1.0 + small * small))
    quarter = half / (1.0 + tl.sqrt(1.0 + half * half))
    square = quarter * quarter
    total = square * 0.0
    for step in tl.static_range(12):
        total = 1.0 / (23.0 - 2.0 * step) - square * total
    angle = 4.0 * quarter * total
    angle = tl.where(inverted, 1.5707963267948966 - angle, angle)
    return tl.where(x < 0, -angle, angle)


@triton.jit
def tanh(x):
    """Return the hyperbolic tangent: a continued fraction near zero, exponentials elsewhere; accurate in both."""
    square = x * x
    below = 21.0 + square / 23.0
    for step in tl.static_range(9):
        below = (19.0 - 2.0 * step) + square / below
    far = 1.0 - 2.0 / (tl.exp(2.0 * tl.minimum(tl.abs(x), 30.0)) + 1.0)
    near = x / (1.0 + square / below)
    return tl.where(tl.abs(x) < 1.0, near, tl.where(x > 0, far, tl.where(x < 0, -far, x)))
