"""PatchNorm as functions of tensors: convolutions that divide every patch by its own length.

The functions take the arguments of torch's convolutions: ``x`` is (batch, channels, *space) or one image (channels,
*space). Types: float16, bfloat16, float32, float64. Under autocast, convolutions are computed in autocast's type,
lengths of patches in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .kernels.patch_maps import CONVOLUTIONS, TRANSPOSED, Map, choose
from .runtime.checks import as_one_type, check_kappa
from .runtime.patch_checks import check_shapes, is_small
from .runtime.patch_settings import around, check_extra, check_reach, each_axis
from .runtime.patches import ROOM, Geometry, positions_of, reach, split

__all__ = [
    "patch_norm_conv1d", "patch_norm_conv2d", "patch_norm_conv3d", "patch_norm_conv_transpose1d",
    "patch_norm_conv_transpose2d", "patch_norm_conv_transpose3d",
]

Axes = int | Sequence[int]


def patch_norm_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Axes = 1,
    padding: str | Axes = 0,
    dilation: Axes = 1,
    groups: int = 1,
    *,
    form: str = "affine-like",
    center: bool = False,
    kappa: float | None = None,
    recompute: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """PatchNorm over one axis of space: ``torch.nn.functional.conv1d`` with every patch divided by its length.

    Args:
        x: input (batch, in, *space) or (in, *space).
        weight: W (out, in / groups, *kernel).
        bias: b (out), or None: then only "norm-like" exists.
        stride: distance between patches; this and the next three are as in torch.
        padding: integers, "same" or "valid".
        dilation: distance between the filter's entries.
        groups: number of groups of channels; each group has its own patches.
        form: "affine-like" or "norm-like".
        center: first subtract each patch's mean from it; the zeros of the padding count as part of a patch.
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output. The C++ kernels ignore this setting.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (batch, out, *space) or (out, *space). A patch of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, settings that are not numbers.
        ValueError: shapes that do not fit, settings out of range, a form that needs a bias if there is none, a backend that cannot compute the map.
    """
    settings = (form, center, kappa, recompute, backend)
    return _convolution("patch_norm_conv1d", 1, x, weight, bias, (stride, padding, dilation, groups), settings)


def patch_norm_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Axes = 1,
    padding: str | Axes = 0,
    dilation: Axes = 1,
    groups: int = 1,
    *,
    form: str = "affine-like",
    center: bool = False,
    kappa: float | None = None,
    recompute: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """PatchNorm over two axes of space: ``torch.nn.functional.conv2d`` with every patch divided by its length.

    Args:
        x: input (batch, in, *space) or (in, *space).
        weight: W (out, in / groups, *kernel).
        bias: b (out), or None: then only "norm-like" exists.
        stride: distance between patches; this and the next three are as in torch.
        padding: integers, "same" or "valid".
        dilation: distance between the filter's entries.
        groups: number of groups of channels; each group has its own patches.
        form: "affine-like" or "norm-like".
        center: first subtract each patch's mean from it; the zeros of the padding count as part of a patch.
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output. The C++ kernels ignore this setting.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (batch, out, *space) or (out, *space). A patch of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, settings that are not numbers.
        ValueError: shapes that do not fit, settings out of range, a form that needs a bias if there is none, a backend that cannot compute the map.
    """
    settings = (form, center, kappa, recompute, backend)
    return _convolution("patch_norm_conv2d", 2, x, weight, bias, (stride, padding, dilation, groups), settings)


def patch_norm_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Axes = 1,
    padding: str | Axes = 0,
    dilation: Axes = 1,
    groups: int = 1,
    *,
    form: str = "affine-like",
    center: bool = False,
    kappa: float | None = None,
    recompute: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """PatchNorm over three axes of space: ``torch.nn.functional.conv3d`` with every patch divided by its length.

    Args:
        x: input (batch, in, *space) or (in, *space).
        weight: W (out, in / groups, *kernel).
        bias: b (out), or None: then only "norm-like" exists.
        stride: distance between patches; this and the next three are as in torch.
        padding: integers, "same" or "valid".
        dilation: distance between the filter's entries.
        groups: number of groups of channels; each group has its own patches.
        form: "affine-like" or "norm-like".
        center: first subtract each patch's mean from it; the zeros of the padding count as part of a patch.
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output. The C++ kernels ignore this setting.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (batch, out, *space) or (out, *space). A patch of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, settings that are not numbers.
        ValueError: shapes that do not fit, settings out of range, a form that needs a bias if there is none, a backend that cannot compute the map.
    """
    settings = (form, center, kappa, recompute, backend)
    return _convolution("patch_norm_conv3d", 3, x, weight, bias, (stride, padding, dilation, groups), settings)


def patch_norm_conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Axes = 1,
    padding: Axes = 0,
    output_padding: Axes = 0,
    groups: int = 1,
    dilation: Axes = 1,
    *,
    form: str = "affine-like",
    kappa: float | None = None,
    recompute: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """PatchNorm of a transposed convolution: ``torch.nn.functional.conv_transpose1d`` with scaled outputs.

    Each output position is divided by the length of the entries that contribute to it.

    Args:
        x: input (batch, in, *space) or (in, *space).
        weight: W (in, out / groups, *kernel).
        bias: b (out), or None: then only "norm-like" exists.
        stride: as in torch, like the next four.
        padding: number of positions cropped at each end of the output.
        output_padding: number of positions added at the end of the output.
        groups: number of groups of channels.
        dilation: distance between the filter's entries.
        form: "affine-like" or "norm-like".
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output. The C++ kernels ignore this setting.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (batch, out, *space) or (out, *space). A patch of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, settings that are not numbers.
        ValueError: shapes that do not fit, settings out of range, a form that needs a bias if there is none, a backend that cannot compute the map.
    """
    settings = (form, False, kappa, recompute, backend)
    geometry = (stride, padding, output_padding, groups, dilation)
    return _transposed("patch_norm_conv_transpose1d", 1, x, weight, bias, geometry, settings)


def patch_norm_conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Axes = 1,
    padding: Axes = 0,
    output_padding: Axes = 0,
    groups: int = 1,
    dilation: Axes = 1,
    *,
    form: str = "affine-like",
    kappa: float | None = None,
    recompute: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """PatchNorm of a transposed convolution: ``torch.nn.functional.conv_transpose2d`` with scaled outputs.

    Each output position is divided by the length of the entries that contribute to it.

    Args:
        x: input (batch, in, *space) or (in, *space).
        weight: W (in, out / groups, *kernel).
        bias: b (out), or None: then only "norm-like" exists.
        stride: as in torch, like the next four.
        padding: number of positions cropped at each end of the output.
        output_padding: number of positions added at the end of the output.
        groups: number of groups of channels.
        dilation: distance between the filter's entries.
        form: "affine-like" or "norm-like".
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output. The C++ kernels ignore this setting.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (batch, out, *space) or (out, *space). A patch of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, settings that are not numbers.
        ValueError: shapes that do not fit, settings out of range, a form that needs a bias if there is none, a backend that cannot compute the map.
    """
    settings = (form, False, kappa, recompute, backend)
    geometry = (stride, padding, output_padding, groups, dilation)
    return _transposed("patch_norm_conv_transpose2d", 2, x, weight, bias, geometry, settings)


def patch_norm_conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Axes = 1,
    padding: Axes = 0,
    output_padding: Axes = 0,
    groups: int = 1,
    dilation: Axes = 1,
    *,
    form: str = "affine-like",
    kappa: float | None = None,
    recompute: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """PatchNorm of a transposed convolution: ``torch.nn.functional.conv_transpose3d`` with scaled outputs.

    Each output position is divided by the length of the entries that contribute to it.

    Args:
        x: input (batch, in, *space) or (in, *space).
        weight: W (in, out / groups, *kernel).
        bias: b (out), or None: then only "norm-like" exists.
        stride: as in torch, like the next four.
        padding: number of positions cropped at each end of the output.
        output_padding: number of positions added at the end of the output.
        groups: number of groups of channels.
        dilation: distance between the filter's entries.
        form: "affine-like" or "norm-like".
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output. The C++ kernels ignore this setting.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Returns:
        z (batch, out, *space) or (out, *space). A patch of zeros has no direction: its weight part and its gradient are zero.

    Raises:
        TypeError: for an argument that is not a floating-point tensor, types that differ, settings that are not numbers.
        ValueError: shapes that do not fit, settings out of range, a form that needs a bias if there is none, a backend that cannot compute the map.
    """
    settings = (form, False, kappa, recompute, backend)
    geometry = (stride, padding, output_padding, groups, dilation)
    return _transposed("patch_norm_conv_transpose3d", 3, x, weight, bias, geometry, settings)


def _convolution(
    name: str,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    given: tuple[Axes, str | Axes, Axes, int],
    settings: tuple[str, bool, float | None, bool | None, str | None],
) -> Tensor:
    form, center, kappa, recompute, backend = settings
    chosen = choose(name, CONVOLUTIONS, form, center, bias is not None)
    kappa = check_kappa(name, chosen.kappa if kappa is None else kappa, chosen.above, getattr(x, "dtype", None), ROOM)
    x, weight, bias = as_one_type(name, x, weight, bias)
    groups = given[3]
    check_shapes(name, axes, x, weight, bias, groups, transposed=False)
    kernel = tuple(weight.shape[2:])
    stride, dilation = each_axis(name, "stride", given[0], axes, 1), each_axis(name, "dilation", given[2], axes, 1)
    ends = around(name, given[1], kernel, stride, dilation)
    if any(before != after for before, after in ends):
        x = F.pad(x, [end for before, after in reversed(ends) for end in (0, after - before)])
    geometry = Geometry(kernel, stride, tuple(min(pair) for pair in ends), dilation, (0,) * axes)
    check_reach(name, x.shape[-axes:], kernel, geometry.padding, dilation)
    if recompute is None:
        recompute = not is_small(x, weight, weight.shape[0], positions_of(x.shape[-axes:], geometry))
    return _grouped((name, backend, chosen), axes, x, weight, bias, groups, (kappa, geometry, recompute))


def _transposed(
    name: str,
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    given: tuple[Axes, Axes, Axes, int, Axes],
    settings: tuple[str, bool, float | None, bool | None, str | None],
) -> Tensor:
    form, center, kappa, recompute, backend = settings
    chosen = choose(name, TRANSPOSED, form, center, bias is not None)
    kappa = check_kappa(name, chosen.kappa if kappa is None else kappa, chosen.above, getattr(x, "dtype", None), ROOM)
    x, weight, bias = as_one_type(name, x, weight, bias)
    groups = given[3]
    check_shapes(name, axes, x, weight, bias, groups, transposed=True)
    words = (("stride", given[0], 1), ("padding", given[1], 0), ("dilation", given[4], 1), ("output_padding", given[2], 0))
    stride, padding, dilation, extra = (each_axis(name, word, value, axes, least) for word, value, least in words)
    geometry = Geometry(tuple(weight.shape[2:]), stride, padding, dilation, extra)
    check_extra(name, reach(x.shape[-axes:], geometry), extra, stride, dilation)
    if recompute is None:
        recompute = not is_small(x, weight, groups * weight.shape[1], reach(x.shape[-axes:], geometry))
    return _grouped((name, backend, chosen), axes, x, weight, bias, groups, (kappa, geometry, recompute))


def _grouped(
    called: tuple[str, str | None, Map],
    axes: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    groups: int,
    settings: tuple[float, Geometry, bool],
) -> Tensor:
    """Give groups an axis of their own, apply the map, and return the output in torch's layout."""
    batch = x if x.dim() == axes + 2 else x.unsqueeze(0)
    tensors = [split(batch, 1, groups), split(weight, 0, groups)]
    if bias is not None:
        tensors.append(bias.reshape(groups, bias.shape[0] // groups, *[1] * axes))
    name, backend, chosen = called
    z = chosen.apply(name, backend, *tensors, *settings).flatten(1, 2)
    return z if batch is x else z.squeeze(0)
