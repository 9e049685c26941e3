"""Gated maps: one linear map times the sigmoid of another."""

from __future__ import annotations

from derive.declare import forward
from derive.forward_map import Layer


def gated() -> Layer:
    """Return ``z = (W x) * sigmoid(V x)``."""
    return forward(
        "gated",
        title="Gated linear unit",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n", "V": "m n"},
        formulas=[
            "u[i] = sum[j](W[i, j]*x[j])",
            "v[i] = sum[j](V[i, j]*x[j])",
            "h[i] = 1/(1 + exp(-v[i]))",
            "z[i] = u[i]*h[i]",
        ],
    )
