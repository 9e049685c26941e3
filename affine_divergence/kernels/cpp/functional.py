"""The generated maps as functions of tensors on the CPU, computed by kernels in C++.

``x`` is (..., n) with any number of leading axes, including none; each of its rows is a sample. Types: float16,
bfloat16, float32, float64. Under autocast, products are computed in autocast's type, row scales in at least float32.
"""

from __future__ import annotations

from torch import Tensor

from .affine_like import AffineLike, AffineLikeReverse
from .norm_like import NormLike, NormLikeReverse
from .norm_like_without_bias import NormLikeWithoutBias, NormLikeWithoutBiasReverse
from ...runtime.checks import check_kappa, check_operands
from ...runtime.rows import apply, as_given, as_rows, centred

__all__ = ["affine_like", "norm_like"]


def affine_like(x: Tensor, weight: Tensor, bias: Tensor, kappa: float = 1.0) -> Tensor:
    """The affine-like (non-normalising) solution of the affine divergence.

    z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i]), f[s] = sqrt(kappa)/sqrt(E[s] + 1), E[s] = sum[j](x[s,j]**2)

    Args:
        x: input (..., n).
        weight: W (m, n).
        bias: b (m).
        kappa: the self factor of every sample, above 0.0.

    Returns:
        z (..., m).

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, a kappa that is not a number.
        ValueError: shapes that do not fit, a kappa out of range, no bias.
    """
    if bias is None:
        raise ValueError(
            "affine_like: the bias is None; the non-normalising affine-like map exists only with a bias; keep the "
            "bias, or use NormLike"
        )
    kappa = check_kappa("affine_like", kappa, 0.0, getattr(x, "dtype", None))
    x, weight, offset = check_operands("affine_like", x, weight, bias)
    rows = as_rows(x)
    z = apply(AffineLike, AffineLikeReverse, rows, weight, offset, kappa)
    return z if x.dim() == 2 else as_given(z, x)


def norm_like(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, kappa: float | None = None, center: bool = False
) -> Tensor:
    """The norm-like (normalising) solution of the affine divergence.

    with a bias: z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]) + b[i], f[s] = sqrt(kappa - 1)/sqrt(E[s]), E[s] = sum[j](x[s,j]**2)
    without: z[s,i] = f[s]*sum[j](W[i,j]*x[s,j]), f[s] = sqrt(kappa)/sqrt(E[s]), E[s] = sum[j](x[s,j]**2)

    Args:
        x: input (..., n).
        weight: W (m, n).
        bias: b (m), or None.
        kappa: the self factor of every sample; above 1.0 with a bias, where None means 2.0; above 0.0 without, where it
            means 1.0.
        center: first subtract each row's mean: the map is then a LayerNorm without gain and a linear layer.

    Returns:
        z (..., m). A row of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, a kappa that is not a number.
        ValueError: shapes that do not fit, a kappa out of range.
    """
    if kappa is None:
        kappa = 1.0 if bias is None else 2.0
    kappa = check_kappa("norm_like", kappa, 0.0 if bias is None else 1.0, getattr(x, "dtype", None))
    x, weight, bias = check_operands("norm_like", x, weight, bias)
    rows = as_rows(centred(x) if center else x)
    if bias is None:
        z = apply(NormLikeWithoutBias, NormLikeWithoutBiasReverse, rows, weight, kappa)
        return z if x.dim() == 2 else as_given(z, x)
    z = apply(NormLike, NormLikeReverse, rows, weight, bias, kappa)
    return z if x.dim() == 2 else as_given(z, x)
