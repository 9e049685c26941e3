"""Multi-head attention in its parts: projections, scores, value path. Tokens (and pairs of tokens) are samples.

``R`` heads of width ``d``; ``T`` tokens are queries, ``S`` tokens keys. In the value path the attention weights are an
input: the softmax is held fixed.
"""

from __future__ import annotations

from dataclasses import replace

from derive.declare import forward
from derive.forward_map import Layer

_QUERY = "u[r, t, h] = sum[j](WQ[r, h, j]*x[t, j]) + bQ[r, h]"
_KEY = "k[r, t, h] = sum[j](WK[r, h, j]*y[t, j]) + bK[r, h]"
_SCORE_SIZES = "n d R T S"
_SCORE_INPUTS = {"x": "T n", "y": "S n"}
_SCORE_PARAMETERS = {"WQ": "R d n", "bQ": "R d", "WK": "R d n", "bK": "R d"}


def projection() -> Layer:
    """Return the query, key or value projection: an affine map of every token, with one block of rows per head."""
    return forward(
        "attention-projection",
        title="Projection of the tokens",
        sizes="n d R T",
        inputs={"x": "T n"},
        parameters={"W": "R d n", "b": "R d"},
        formulas=["z[r, t, h] = sum[j](W[r, h, j]*x[t, j]) + b[r, h]"],
    )


def output_projection() -> Layer:
    """Return the output projection: an affine map of the concatenated contexts ``c``."""
    return forward(
        "attention-output",
        title="Output projection",
        sizes="d R m T",
        inputs={"c": "R T d"},
        parameters={"W": "m R d", "b": "m"},
        formulas=["z[t, i] = sum[r, h](W[i, r, h]*c[r, t, h]) + b[i]"],
    )


def value_path() -> Layer:
    """Return the value path ``o_t = sum over s of A_ts v_s``, the attention weights A held fixed.

    ``E`` holds the exponentials of the scores; dividing them by their sum gives rows of A that add up to one.
    """
    return forward(
        "attention-value",
        title="Value path, attention weights held fixed",
        sizes="n d R T S",
        inputs={"E": "R T S", "y": "S n"},
        parameters={"W": "R d n", "b": "R d"},
        formulas=[
            "e[r, t] = sum[k](E[r, t, k])",
            "A[r, t, k] = E[r, t, k]/e[r, t]",
            "v[r, k, h] = sum[j](W[r, h, j]*y[k, j]) + b[r, h]",
            "z[r, t, h] = sum[k](A[r, t, k]*v[r, k, h])",
        ],
    )


def attention() -> Layer:
    """Return multi-head attention: the scores, with the projections and the value path as parts."""
    return replace(scores(), parts=(projection(), value_path(), output_projection()))


def scores() -> Layer:
    """Return the scores ``q_t . k_s / sqrt(d)`` as a function of the query and key projections."""
    return forward(
        "attention",
        title="Attention scores",
        sizes=_SCORE_SIZES,
        inputs=_SCORE_INPUTS,
        parameters=_SCORE_PARAMETERS,
        formulas=[_QUERY, _KEY.replace("t", "l"), "z[r, t, l] = sum[h](u[r, t, h]*k[r, l, h])/sqrt(d)"],
    )


def qk_norm_scores() -> Layer:
    """Return the scores of normalised queries and keys."""
    return forward(
        "qk-norm>attention",
        title="Attention scores with QK-norm",
        sizes=_SCORE_SIZES,
        inputs=_SCORE_INPUTS,
        parameters=_SCORE_PARAMETERS,
        formulas=[
            _QUERY,
            _KEY.replace("t", "l"),
            "uu[r, t] = sum[h](u[r, t, h]**2)",
            "kk[r, l] = sum[h](k[r, l, h]**2)",
            "z[r, t, l] = sum[h](u[r, t, h]*k[r, l, h])/sqrt(uu[r, t]*kk[r, l])",
        ],
    )
