"""The generated maps as functions of tensors.

``x`` is (..., n) with any number of leading axes, including none; each of its rows is a sample. Types: float16,
bfloat16, float32, float64. Under autocast, products are computed in autocast's type, row scales in at least float32.
"""

from __future__ import annotations

from torch import Tensor

from .kernels.torch.affine_like import AffineLike, AffineLikeReverse
from .kernels.torch.norm_like import NormLike, NormLikeReverse
from .kernels.torch.norm_like_without_bias import (
    NormLikeWithoutBias,
    NormLikeWithoutBiasReverse,
)
from .runtime.backends import at_once, chosen
from .runtime.checks import check_kappa, check_operands
from .runtime.rows import apply, as_given, as_rows, centred
from .runtime.steps import as_step, is_one_step
from .patch_functional import (
    patch_norm_conv1d,
    patch_norm_conv2d,
    patch_norm_conv3d,
    patch_norm_conv_transpose1d,
    patch_norm_conv_transpose2d,
    patch_norm_conv_transpose3d,
)

__all__ = [
    "affine_like", "norm_like", "patch_norm_conv1d", "patch_norm_conv2d", "patch_norm_conv3d",
    "patch_norm_conv_transpose1d", "patch_norm_conv_transpose2d", "patch_norm_conv_transpose3d",
]


def affine_like(x: Tensor, weight: Tensor, bias: Tensor, kappa: float = 1.0, *, backend: str | None = None) -> Tensor:
    """The affine-like (non-normalising) solution of the affine divergence.

    z[s,i] = f[s]*(sum[j](W[i,j]*x[s,j]) + b[i]), f[s] = sqrt(kappa)/sqrt(E[s] + 1), E[s] = sum[j](x[s,j]**2)

    Args:
        x: input (..., n).
        weight: W (m, n).
        bias: b (m).
        kappa: the self factor of every sample, above 0.0.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (..., m).

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, a kappa that is not a number.
        ValueError: shapes that do not fit, a kappa out of range, no bias, a backend that cannot compute the map.
    """
    if bias is None:
        raise ValueError(
            "affine_like: the bias is None; the non-normalising affine-like map exists only with a bias; keep the "
            "bias, or use NormLike"
        )
    if type(kappa) is not float or not 0.0 + 2e-7 < kappa < 4e9:
        kappa = check_kappa("affine_like", kappa, 0.0, getattr(x, "dtype", None))
    run = at_once("affine_like.AffineLike", backend, x, weight, bias)
    if run is not None:
        return run(x, weight, bias, kappa)
    given = x, weight, bias, kappa, backend
    return _affine_like_step(*given) if is_one_step(x, weight, bias) else _affine_like(*given)


def _affine_like(x: Tensor, weight: Tensor, bias: Tensor, kappa: float, backend: str | None) -> Tensor:
    x, weight, offset = check_operands("affine_like", x, weight, bias)
    rows = as_rows(x)
    own = AffineLike, AffineLikeReverse
    eager, traced = chosen("affine_like", backend, "affine_like.AffineLike", own, rows, weight)
    z = apply(eager, traced, rows, weight, offset, kappa)
    return z if x.dim() == 2 else as_given(z, x)


_affine_like_step = as_step(_affine_like)


def norm_like(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    kappa: float | None = None,
    center: bool = False,
    *,
    backend: str | None = None,
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
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (..., m). A row of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, a kappa that is not a number.
        ValueError: shapes that do not fit, a kappa out of range, a backend that cannot compute the map.
    """
    if kappa is None:
        kappa = 1.0 if bias is None else 2.0
    if type(kappa) is not float or not (0.0 if bias is None else 1.0) + 2e-7 < kappa < 4e9:
        kappa = check_kappa("norm_like", kappa, 0.0 if bias is None else 1.0, getattr(x, "dtype", None))
    home = "norm_like.NormLike" if bias is not None else "norm_like_without_bias.NormLikeWithoutBias"
    run = None if center else at_once(home, backend, x, weight, bias)
    if run is not None:
        return run(x, weight, kappa) if bias is None else run(x, weight, bias, kappa)
    given = x, weight, bias, kappa, center, backend
    return _norm_like_step(*given) if is_one_step(x, weight, bias) else _norm_like(*given)


def _norm_like(
    x: Tensor, weight: Tensor, bias: Tensor | None, kappa: float, center: bool, backend: str | None
) -> Tensor:
    x, weight, bias = check_operands("norm_like", x, weight, bias)
    rows = as_rows(centred(x) if center else x)
    if bias is None:
        bare = NormLikeWithoutBias, NormLikeWithoutBiasReverse
        eager, traced = chosen("norm_like", backend, "norm_like_without_bias.NormLikeWithoutBias", bare, rows, weight)
        z = apply(eager, traced, rows, weight, kappa)
        return z if x.dim() == 2 else as_given(z, x)
    own = NormLike, NormLikeReverse
    eager, traced = chosen("norm_like", backend, "norm_like.NormLike", own, rows, weight)
    z = apply(eager, traced, rows, weight, bias, kappa)
    return z if x.dim() == 2 else as_given(z, x)


_norm_like_step = as_step(_norm_like)
