"""PatchNorm as modules with the arguments and parameters of torch's convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import patch_functional as functional
from .kernels.patch_maps import CONVOLUTIONS, TRANSPOSED, Maps, choose
from .runtime.backends import check_backend
from .runtime.checks import check_features, check_init, check_kappa
from .runtime.leaf import leaf
from .runtime.operands import PLAIN
from .runtime.patch_settings import around, check_groups, each_axis

__all__ = ["PatchNormConv1d", "PatchNormConv2d", "PatchNormConv3d", "PatchNormConvTranspose1d", "PatchNormConvTranspose2d", "PatchNormConvTranspose3d"]

Axes = int | Sequence[int]


class _PatchNorm(nn.Module):
    """The base of all: settings, parameters with torch's shapes, and their initialisation."""

    __constants__ = ("groups", "in_channels", "kappa", "out_channels", "padding_mode")
    axes: ClassVar[int]
    maps: ClassVar[Maps]
    in_channels: int
    out_channels: int
    kappa: float
    init: str
    backend: str | None
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        channels: tuple[int, int],
        kernel_size: Axes,
        stride: Axes,
        dilation: Axes,
        groups: int,
        with_bias: bool,
        settings: tuple[str, bool, float | None, bool | None, str, str | None],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_features(name, in_channels=channels[0], out_channels=channels[1])
        self.groups = check_groups(name, groups, in_channels=channels[0], out_channels=channels[1])
        self.in_channels, self.out_channels = channels
        self.kernel_size = each_axis(name, "kernel_size", kernel_size, self.axes, 1)
        self.stride = each_axis(name, "stride", stride, self.axes, 1)
        self.dilation = each_axis(name, "dilation", dilation, self.axes, 1)
        self.form, self.center, kappa, self.recompute, init, backend = settings
        self.init, self.backend = check_init(name, init), check_backend(name, backend)
        chosen = choose(name, self.maps, self.form, self.center, with_bias)
        self.kappa = check_kappa(name, chosen.kappa if kappa is None else kappa, above=chosen.above)

    def _make_parameters(self, first: int, second: int, bias: bool, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.weight = nn.Parameter(torch.empty(first, second, *self.kernel_size, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight so that outputs keep unit variance for any size of a patch; set the bias to zero.

        With ``init="torch"`` both are drawn as torch's convolutions draw them.
        """
        if self.init == "torch":
            nn.Conv2d.reset_parameters(cast(nn.Conv2d, self))  # it reads only the parameters
            return
        chosen = choose(type(self).__name__, self.maps, self.form, self.center, self.bias is not None)
        nn.init.normal_(self.weight, std=chosen.deviation(self.kappa))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _settings(self) -> str:
        """Return the settings that torch's modules lack, for the module's ``repr``."""
        text = f", form={self.form!r}, kappa={self.kappa:g}" + (", center=True" if self.center else "")
        text += f", init={self.init!r}" if self.init != "variance-preserving" else ""
        return text + (f", backend={self.backend!r}" if self.backend is not None else "")


class _PatchNormConv(_PatchNorm):
    """PatchNorm over one, two or three axes of space."""

    maps = CONVOLUTIONS
    apply_map: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Axes,
        stride: Axes = 1,
        padding: str | Axes = 0,
        dilation: Axes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        form: str = "affine-like",
        center: bool = False,
        kappa: float | None = None,
        recompute: bool | None = None,
        init: str = "variance-preserving",
        backend: str | None = None,
    ) -> None:
        settings = (form, center, kappa, recompute, init, backend)
        super().__init__((in_channels, out_channels), kernel_size, stride, dilation, groups, bias, settings)
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(
                f"{type(self).__name__}: padding_mode is {padding_mode!r}; choose 'zeros', 'reflect', 'replicate' or 'circular'"
            )
        self.padding_mode = padding_mode
        ends = around(type(self).__name__, padding, self.kernel_size, self.stride, self.dilation)
        self.padding = padding if isinstance(padding, str) else tuple(before for before, _ in ends)
        self._ends = [end for pair in reversed(ends) for end in pair]
        self._make_parameters(out_channels, in_channels // groups, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return z (batch, out, *space) for an input (batch, in, *space), or both without a batch; raises the function's errors."""
        if type(input) not in PLAIN and (step := leaf(self, input)) is not None:
            return step
        padding: str | Axes = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._ends, mode=self.padding_mode), 0
        return type(self).apply_map(
            input,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            form=self.form,
            center=self.center,
            kappa=self.kappa,
            recompute=self.recompute,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """Return the settings for the module's ``repr``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding not in ("valid", (0,) * self.axes) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1,) * self.axes else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        text += f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else ""
        return text + self._settings()


class _PatchNormConvTranspose(_PatchNorm):
    """PatchNorm of a transposed convolution over one, two or three axes of space."""

    maps = TRANSPOSED
    apply_map: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Axes,
        stride: Axes = 1,
        padding: Axes = 0,
        output_padding: Axes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Axes = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        form: str = "affine-like",
        kappa: float | None = None,
        recompute: bool | None = None,
        init: str = "variance-preserving",
        backend: str | None = None,
    ) -> None:
        settings = (form, False, kappa, recompute, init, backend)
        super().__init__((in_channels, out_channels), kernel_size, stride, dilation, groups, bias, settings)
        name = type(self).__name__
        if padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode is {padding_mode!r}; a transposed convolution has only 'zeros'")
        self.padding_mode = padding_mode
        self.padding = each_axis(name, "padding", padding, self.axes, 0)
        self.output_padding = each_axis(name, "output_padding", output_padding, self.axes, 0)
        self._make_parameters(in_channels, out_channels // groups, bias, device, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Return z (batch, out, *space) for an input (batch, in, *space), or both without a batch.

        ``output_size`` selects the lengths of the output, alone or after batch and channels, if a stride allows several.
        Raises the function's errors, and ValueError for an impossible size.
        """
        if type(input) not in PLAIN and (step := leaf(self, input, output_size)) is not None:
            return step
        return type(self).apply_map(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding if output_size is None else self._missing(input, output_size),
            self.groups,
            self.dilation,
            form=self.form,
            kappa=self.kappa,
            recompute=self.recompute,
            backend=self.backend,
        )

    def _missing(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """Return the lengths to add to the smallest possible output to reach the wanted size."""
        wanted = tuple(output_size)[-self.axes :]
        zipped = zip(input.shape[-self.axes :], self.stride, self.dilation, self.kernel_size, self.padding, strict=True)
        least = [(count - 1) * s + d * (k - 1) + 1 - 2 * p for count, s, d, k, p in zipped]
        most = [length + step - 1 for length, step in zip(least, self.stride, strict=True)]
        if len(wanted) != self.axes or any(not a <= w <= b for a, w, b in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: output_size is {tuple(output_size)}; this input gives lengths from {least} to {most}"
            )
        return tuple(w - a for w, a in zip(wanted, least, strict=True))

    def extra_repr(self) -> str:
        """Return the settings for the module's ``repr``."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for word in ("padding", "output_padding"):
            text += f", {word}={getattr(self, word)}" if getattr(self, word) != (0,) * self.axes else ""
        text += f", dilation={self.dilation}" if self.dilation != (1,) * self.axes else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        return text + self._settings()


class PatchNormConv1d(_PatchNormConv):
    """A convolution whose patches are divided by their own lengths, a drop-in for ``torch.nn.Conv1d``.

    Each position's own gradient moves its own activation by the same factor kappa, for any patch. The parameters
    ``weight`` and ``bias`` have the names and shapes of ``torch.nn.Conv1d``, so state dicts load both ways; the
    settings are not part of the state. Input (batch, in, *space), output (batch, out, *space), or both without a batch.
    A patch of zeros has no direction: its weight part and its gradient are zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: positions that a patch spans: an integer, or one per axis, like the next settings.
        stride: distance between patches.
        padding: zeros added at both ends of each axis, or "same" or "valid".
        dilation: distance between a patch's positions.
        groups: number of groups of channels; each group has its own patches.
        bias: learn an additive bias; without one only "norm-like" exists.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device: the device of the parameters.
        dtype: their floating-point type.
        form: "affine-like" or "norm-like".
        center: first subtract each patch's mean from it; the zeros of the padding count as part of a patch.
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a setting that is not a number.
        ValueError: a setting out of range, an unknown init or backend, a form that needs a bias with ``bias=False``.
    """

    axes = 1
    apply_map = staticmethod(functional.patch_norm_conv1d)


class PatchNormConv2d(_PatchNormConv):
    """A convolution whose patches are divided by their own lengths, a drop-in for ``torch.nn.Conv2d``.

    Each position's own gradient moves its own activation by the same factor kappa, for any patch. The parameters
    ``weight`` and ``bias`` have the names and shapes of ``torch.nn.Conv2d``, so state dicts load both ways; the
    settings are not part of the state. Input (batch, in, *space), output (batch, out, *space), or both without a batch.
    A patch of zeros has no direction: its weight part and its gradient are zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: positions that a patch spans: an integer, or one per axis, like the next settings.
        stride: distance between patches.
        padding: zeros added at both ends of each axis, or "same" or "valid".
        dilation: distance between a patch's positions.
        groups: number of groups of channels; each group has its own patches.
        bias: learn an additive bias; without one only "norm-like" exists.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device: the device of the parameters.
        dtype: their floating-point type.
        form: "affine-like" or "norm-like".
        center: first subtract each patch's mean from it; the zeros of the padding count as part of a patch.
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a setting that is not a number.
        ValueError: a setting out of range, an unknown init or backend, a form that needs a bias with ``bias=False``.
    """

    axes = 2
    apply_map = staticmethod(functional.patch_norm_conv2d)


class PatchNormConv3d(_PatchNormConv):
    """A convolution whose patches are divided by their own lengths, a drop-in for ``torch.nn.Conv3d``.

    Each position's own gradient moves its own activation by the same factor kappa, for any patch. The parameters
    ``weight`` and ``bias`` have the names and shapes of ``torch.nn.Conv3d``, so state dicts load both ways; the
    settings are not part of the state. Input (batch, in, *space), output (batch, out, *space), or both without a batch.
    A patch of zeros has no direction: its weight part and its gradient are zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: positions that a patch spans: an integer, or one per axis, like the next settings.
        stride: distance between patches.
        padding: zeros added at both ends of each axis, or "same" or "valid".
        dilation: distance between a patch's positions.
        groups: number of groups of channels; each group has its own patches.
        bias: learn an additive bias; without one only "norm-like" exists.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        device: the device of the parameters.
        dtype: their floating-point type.
        form: "affine-like" or "norm-like".
        center: first subtract each patch's mean from it; the zeros of the padding count as part of a patch.
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a setting that is not a number.
        ValueError: a setting out of range, an unknown init or backend, a form that needs a bias with ``bias=False``.
    """

    axes = 3
    apply_map = staticmethod(functional.patch_norm_conv3d)


class PatchNormConvTranspose1d(_PatchNormConvTranspose):
    """A transposed convolution with scaled outputs, a drop-in for ``torch.nn.ConvTranspose1d``.

    Each output position is divided by the length of the entries that contribute to it. The parameters ``weight`` and
    ``bias`` have the names and shapes of ``torch.nn.ConvTranspose1d``, so state dicts load both ways; the settings are
    not part of the state. Input (batch, in, *space), output (batch, out, *space), or both without a batch. A patch of
    zeros has no direction: its weight part and its gradient are zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: positions that an input position contributes to: an integer, or one per axis, like the next settings.
        stride: distance between these.
        padding: number of positions cropped at each end of the output.
        output_padding: number of positions added at the end of the output.
        groups: number of groups of channels.
        bias: learn an additive bias; without one only "norm-like" exists.
        dilation: distance between a filter's positions.
        padding_mode: "zeros".
        device: the device of the parameters.
        dtype: their floating-point type.
        form: "affine-like" or "norm-like".
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a setting that is not a number.
        ValueError: a setting out of range, an unknown init or backend, a form that needs a bias with ``bias=False``.
    """

    axes = 1
    apply_map = staticmethod(functional.patch_norm_conv_transpose1d)


class PatchNormConvTranspose2d(_PatchNormConvTranspose):
    """A transposed convolution with scaled outputs, a drop-in for ``torch.nn.ConvTranspose2d``.

    Each output position is divided by the length of the entries that contribute to it. The parameters ``weight`` and
    ``bias`` have the names and shapes of ``torch.nn.ConvTranspose2d``, so state dicts load both ways; the settings are
    not part of the state. Input (batch, in, *space), output (batch, out, *space), or both without a batch. A patch of
    zeros has no direction: its weight part and its gradient are zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: positions that an input position contributes to: an integer, or one per axis, like the next settings.
        stride: distance between these.
        padding: number of positions cropped at each end of the output.
        output_padding: number of positions added at the end of the output.
        groups: number of groups of channels.
        bias: learn an additive bias; without one only "norm-like" exists.
        dilation: distance between a filter's positions.
        padding_mode: "zeros".
        device: the device of the parameters.
        dtype: their floating-point type.
        form: "affine-like" or "norm-like".
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a setting that is not a number.
        ValueError: a setting out of range, an unknown init or backend, a form that needs a bias with ``bias=False``.
    """

    axes = 2
    apply_map = staticmethod(functional.patch_norm_conv_transpose2d)


class PatchNormConvTranspose3d(_PatchNormConvTranspose):
    """A transposed convolution with scaled outputs, a drop-in for ``torch.nn.ConvTranspose3d``.

    Each output position is divided by the length of the entries that contribute to it. The parameters ``weight`` and
    ``bias`` have the names and shapes of ``torch.nn.ConvTranspose3d``, so state dicts load both ways; the settings are
    not part of the state. Input (batch, in, *space), output (batch, out, *space), or both without a batch. A patch of
    zeros has no direction: its weight part and its gradient are zero.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: positions that an input position contributes to: an integer, or one per axis, like the next settings.
        stride: distance between these.
        padding: number of positions cropped at each end of the output.
        output_padding: number of positions added at the end of the output.
        groups: number of groups of channels.
        bias: learn an additive bias; without one only "norm-like" exists.
        dilation: distance between a filter's positions.
        padding_mode: "zeros".
        device: the device of the parameters.
        dtype: their floating-point type.
        form: "affine-like" or "norm-like".
        kappa: the self factor of every position; None means 1.0 for affine-like, 2.0 for norm-like, 1.0 for norm-like
            without a bias; it must be positive, above 1.0 for norm-like.
        recompute: whether to recompute the convolution in the backward pass. False keeps it, which is faster but
            takes as much memory as the output. None keeps it only if the weight is at least eight times as large as
            the output.
        init: how ``reset_parameters`` draws: "variance-preserving", or "torch" for torch's own way.
        backend: "torch", "triton", "cuda" or "cpp"; None chooses one, see ``runtime.backends``.

    Raises:
        TypeError: a setting that is not a number.
        ValueError: a setting out of range, an unknown init or backend, a form that needs a bias with ``bias=False``.
    """

    axes = 3
    apply_map = staticmethod(functional.patch_norm_conv_transpose3d)
