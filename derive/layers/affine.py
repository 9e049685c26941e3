"""Affine maps: a weight matrix on the last axis, with and without a bias."""

from __future__ import annotations

from derive.declare import forward
from derive.forward_map import Layer


def linear() -> Layer:
    """Return ``z = W x``."""
    return forward(
        "linear",
        title="Linear map",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n"},
        formulas=["z[i] = sum[j](W[i, j]*x[j])"],
    )


def affine() -> Layer:
    """Return ``z = W x + b``."""
    return forward(
        "affine",
        title="Affine map",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n", "b": "m"},
        formulas=["z[i] = sum[j](W[i, j]*x[j]) + b[i]"],
    )
