"""Low-rank maps: a product of two matrices in place of one."""

from __future__ import annotations

from derive.declare import forward
from derive.forward_map import Layer


def low_rank() -> Layer:
    """Return ``z = B A x`` (LoRA's update)."""
    return forward(
        "low-rank",
        title="Low-rank map",
        sizes="n m k",
        inputs={"x": "n"},
        parameters={"A": "k n", "U": "m k"},
        formulas=["a[l] = sum[j](A[l, j]*x[j])", "z[i] = sum[l](U[i, l]*a[l])"],
    )
