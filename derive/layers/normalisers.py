"""Normalisers for use before or after a map (``rms-norm>affine``, ``affine>rms-norm``), and the learned gain.

There is no epsilon: the derivations are of the exact maps.
"""

from __future__ import annotations

from derive.declare import forward
from derive.forward_map import Layer


def l2_norm() -> Layer:
    """Return ``y = x / ||x||``."""
    return forward(
        "l2-norm",
        title="L2 normalisation",
        sizes="n",
        inputs={"x": "n"},
        parameters={},
        formulas=["q = sum[j](x[j]**2)", "y[j] = x[j]/sqrt(q)"],
    )


def rms_norm() -> Layer:
    """Return ``y = sqrt(n) x / ||x||``."""
    return forward(
        "rms-norm",
        title="RMS normalisation",
        sizes="n",
        inputs={"x": "n"},
        parameters={},
        formulas=["q = sum[j](x[j]**2)", "y[j] = sqrt(n)*x[j]/sqrt(q)"],
    )


def layer_norm() -> Layer:
    """Return ``y = sqrt(n) c / ||c||`` with ``c = x - mean x``."""
    return forward(
        "layer-norm",
        title="Layer normalisation",
        sizes="n",
        inputs={"x": "n"},
        parameters={},
        formulas=["c[j] = x[j] - sum[k](x[k])/n", "q = sum[j](c[j]**2)", "y[j] = sqrt(n)*c[j]/sqrt(q)"],
    )


def batch_norm() -> Layer:
    """Return ``y = c / sqrt(v)``, with ``c`` the deviation from the batch mean and ``v`` the variance, per feature."""
    return forward(
        "batch-norm",
        title="Batch normalisation",
        sizes="B n",
        inputs={"x": "B n"},
        parameters={},
        formulas=[
            "c[s, j] = x[s, j] - sum[r](x[r, j])/B",
            "v[j] = sum[r](c[r, j]**2)/B",
            "y[s, j] = c[s, j]/sqrt(v[j])",
        ],
        batched=True,
    )


def gain() -> Layer:
    """Return ``z = gamma x + beta``, entry by entry."""
    return forward(
        "gain",
        title="Learned gain",
        sizes="n",
        inputs={"x": "n"},
        parameters={"gamma": "n", "beta": "n"},
        formulas=["z[i] = gamma[i]*x[i] + beta[i]"],
    )
