"""Look-up tables: a row of the weight for each token, and sums of rows."""

from __future__ import annotations

from derive.declare import forward
from derive.forward_map import Layer


def embedding() -> Layer:
    """Return ``z_p = W[t_p]``, the row of each token."""
    return forward(
        "embedding",
        title="Embedding",
        sizes="V n T",
        inputs={"t": "T"},
        values={"t": "V"},
        parameters={"W": "V n"},
        formulas=["z[p, i] = W[t[p], i]"],
    )


def embedding_bag() -> Layer:
    """Return ``z = sum over p of W[t_p]``, the sum of the rows of a bag of tokens."""
    return forward(
        "embedding-bag",
        title="Embedding bag",
        sizes="V n T",
        inputs={"t": "T"},
        values={"t": "V"},
        parameters={"W": "V n"},
        formulas=["z[i] = sum[p](W[t[p], i])"],
    )


def weighted_embedding_bag() -> Layer:
    """Return ``z = sum over p of w_p W[t_p]``, the sum of the rows of a bag of tokens, each with its own weight."""
    return forward(
        "weighted-embedding-bag",
        title="Weighted embedding bag",
        sizes="V n T",
        inputs={"t": "T", "w": "T"},
        values={"t": "V"},
        parameters={"W": "V n"},
        formulas=["z[i] = sum[p](w[p]*W[t[p], i])"],
    )
