"""Convolutions and sums over patches of tensors (batch, groups, channels, *space).

A tensor with one number per position has one channel, a tensor with one number per image has length 1 in every other
axis, and a bias is (groups, channels, 1, ..), so that all broadcast. Numbers per position are float64 if the device has
it: there squares and cubes of float32 numbers do not overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from .operands import is_eager
from .rows import FarError, are_far, is_visible

_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_FEW = 2**13  # numbers
_is_mapped: Callable[[Tensor], bool] = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda t: True)
ROOM = 2.0**9  # by which entries of a rescaled image may lie above the root of kappa: see ``longest``
_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class Geometry(NamedTuple):
    """The settings of a convolution, one per axis of space; ``extra`` lengthens the output of a transposed one."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]


def gather(
    x: Tensor, W: Tensor, geometry: Geometry, bias: Tensor | None = None, size: Sequence[int] | None = None
) -> Tensor:
    """Return y[s,g,o,p] = sum of W[g,o,c,k] * x[s,g,c,stride*p + dilation*k - padding] over c and k, plus the bias.

    Entries outside ``x`` are zero; ``size`` is the number of positions p if it is not the maximum.
    """
    flat = _CONVOLVE[len(geometry.kernel) - 1](
        joined(x, 1),
        _filters(W, x),
        None if bias is None else bias.reshape(-1),
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        x.shape[1],
    )
    y = grouped(flat, x.shape[1])
    return y if size is None else _first(y, size)


def scatter(y: Tensor, W: Tensor, geometry: Geometry, size: Sequence[int], bias: Tensor | None = None) -> Tensor:
    """Return x[s,g,c,l] = sum of W[g,o,c,k] * y[s,g,o,p] over o, k, p where stride*p + dilation*k - padding = l < size.

    This is the transpose of ``gather``, plus the bias.
    """
    least = reach(y.shape[3:], geometry._replace(extra=(0,) * len(size)))
    flat = _TRANSPOSE[len(size) - 1](
        joined(y, 1),
        joined(W, 0),
        None if bias is None else bias.reshape(-1),
        geometry.stride,
        geometry.padding,
        tuple(length - other for length, other in zip(size, least, strict=True)),
        y.shape[1],
        geometry.dilation,
    )
    return grouped(flat, y.shape[1])


def kernel_gradient(y: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Return W[g,o,c,k] = sum of y[s,g,o,p] * x[s,g,c,stride*p + dilation*k - padding] over s and p."""
    y = _up_to(y, positions_of(x.shape[3:], geometry))
    unused = y.new_empty(1).expand(y.shape[1] * y.shape[2], x.shape[2], *geometry.kernel)
    flat: Tensor = torch.ops.aten.convolution_backward(
        joined(y, 1),
        joined(x, 1),
        unused,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        False,
        [0] * len(geometry.kernel),
        y.shape[1],
        [False, True, False],
    )[1]
    return split(flat, 0, y.shape[1])


def gradients_of(
    g: Tensor, x: Tensor, W: Tensor, geometry: Geometry, wanted: tuple[bool, ...], transposed: bool = False
) -> tuple[Any, Any, Any]:
    """Return the gradients of ``gather`` or ``scatter`` with respect to ``x``, ``W`` and a bias, None if not wanted.

    The same as ``gather`` or ``scatter`` and ``kernel_gradient``, in one call.
    """
    dx, dW, db = torch.ops.aten.convolution_backward(
        joined(g, 1),
        joined(x, 1),
        _filters(W, x),
        [g.shape[1] * g.shape[2]],
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        transposed,
        geometry.extra,
        x.shape[1],
        wanted,
    )
    groups = x.shape[1]
    bias = (groups, g.shape[2], *[1] * len(geometry.kernel))
    return (
        split(dx, 1, groups) if wanted[0] else None,
        split(dW, 0, groups) if wanted[1] else None,
        db.reshape(bias) if wanted[2] else None,
    )


def box(e: Tensor, geometry: Geometry, size: Sequence[int] | None = None) -> Tensor:
    """Return E[s,g,p] = sum of e[s,g,stride*p + dilation*k - padding] over k, one axis of space at a time.

    For few numbers, a single call that visits every entry of a patch is faster than one call per axis.
    """
    if size is None and _is_pooled(e, geometry):
        return split(_pool(joined(e, 1), geometry), 1, e.shape[1])
    if any(geometry.padding):
        e = F.pad(e, [p for padding in reversed(geometry.padding) for p in (padding, padding)])
    for axis, (kernel, stride, _, dilation, _) in enumerate(zip(*geometry, strict=True), start=3):
        count = (e.shape[axis] - dilation * (kernel - 1) - 1) // stride + 1
        parts = [_every(e, axis, k * dilation, stride, count) for k in range(kernel)]
        e = sum(parts[1:], start=parts[0])
    return e if size is None else _first(e, size)


def spread(t: Tensor, geometry: Geometry, size: Sequence[int]) -> Tensor:
    """Return e[s,g,l] = sum of t[s,g,p] over k and p where stride*p + dilation*k - padding = l < size.

    With stride 1 this is again a sum over patches.
    """
    rest = tuple(kernel - 1 - padding for kernel, padding in zip(geometry.kernel, geometry.padding, strict=True))
    turned = geometry._replace(padding=rest)
    if set(geometry.stride) == {1} and min(rest) >= 0 and _is_pooled(t, turned):
        return split(_pool(joined(t, 1), turned), 1, t.shape[1])
    for axis, (kernel, stride, padding, dilation, _) in enumerate(zip(*geometry, strict=True), start=3):
        length, count = size[axis - 3], t.shape[axis]
        full = max(length + 2 * padding, (count - 1) * stride + dilation * (kernel - 1) + 1)
        if is_eager(t):
            e = t.new_zeros((*t.shape[:axis], full, *t.shape[axis + 1 :]))
            for first in range(0, kernel * dilation, dilation):
                _every(e, axis, first, stride, count).add_(t)
        else:
            apart = _apart(t, axis, stride)
            parts = [_around(apart, axis, k * dilation, full) for k in range(kernel)]
            e = sum(parts[1:], start=parts[0])
        t = e.narrow(axis, padding, length)
    return t


def positions_of(lengths: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """Return the number of positions of a filter on images of these lengths."""
    axes = zip(lengths, zip(*geometry, strict=True), strict=True)
    return tuple((n + 2 * pad - hole * (k - 1) - 1) // step + 1 for n, (k, step, pad, hole, _) in axes)


def reach(positions: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """Return the output lengths of a transposed convolution with these numbers of positions."""
    return tuple(
        (count - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + extra
        for count, (kernel, stride, padding, dilation, extra) in zip(
            positions, zip(*geometry, strict=True), strict=True
        )
    )


def grouped(flat: Tensor, groups: int) -> Tensor:
    """Return new channels (B, G*O, *P) as (B, G, O, *P), not a view for autograd, so that it may be changed in place.

    In a recorded graph nothing is changed in place, and a view is recorded, which fits any number of images.
    """
    if not is_eager(flat):
        return split(flat, 1, groups)
    shape = (flat.shape[0], groups, flat.shape[1] // groups, *flat.shape[2:])
    found: Tensor = torch.ops.aten._unsafe_view(flat, shape)
    return found


def joined(t: Tensor, axis: int) -> Tensor:
    """Return the tensor with an axis of groups and the following axis of channels merged.

    ``flatten`` is faster, but has no batching rule for gradients under ``is_grads_batched``.
    """
    if is_compiling() or not _is_mapped(t):
        return t.flatten(axis, axis + 1)
    return t.reshape(*t.shape[:axis], t.shape[axis] * t.shape[axis + 1], *t.shape[axis + 2 :])


def _filters(W: Tensor, x: Tensor) -> Tensor:
    """Return W with its groups and outputs merged into one axis, for torch's convolutions.

    For a single image, if both are channels-last, torch (2.11 to 2.14) uses a wrong stride between groups in the
    gradient with respect to W, so W is made contiguous.
    """
    flat = joined(W, 0)
    return flat.contiguous() if x.shape[1] > 1 and x.shape[0] == 1 else flat


def split(t: Tensor, axis: int, groups: int) -> Tensor:
    """Return the tensor with an axis of channels split into groups and channels per group."""
    return t.reshape(*t.shape[:axis], groups, t.shape[axis] // groups, *t.shape[axis + 1 :])


def squares(x: Tensor) -> Tensor:
    """Return the sum of the squares over the channels; a sum whose square root would be subnormal becomes zero."""
    total = wide(x).square().sum(2, keepdim=True)
    return total.masked_fill(total < torch.finfo(rounded_type(x)).tiny ** 2, 0)


def squares_without_graph(x: Tensor) -> Tensor:
    """Return the same for a plain tensor when no graph is recorded, with fewer passes over memory.

    On the CPU, where reading a value costs nothing, each sum is computed in the type of ``x`` if that is safe, decided
    one by one: no bit of an image depends on other images. Raises ``FarError`` if images are far.
    """
    if x.numel() and is_visible(x):
        total = _in_parts(lambda part: part.to(rounded_type(x)).square().sum(2, keepdim=True), x)
        low, high = torch.aminmax(total)
        limits = torch.finfo(total.dtype)
        least, most = limits.tiny**0.8, limits.max**0.9
        if least < low.item() and high.item() < most:
            return wide(total)
        if x.dtype == torch.float32 and not high.item() < most and are_far(x).any():
            raise FarError
        return torch.where((total > least) & (total < most), wide(total), squares(x))
    return squares(x)


def over_channels(x: Tensor) -> Tensor:
    """Return the sum over the channels."""
    return wide(x).sum(2, keepdim=True)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a product over the channels."""
    if a.dim() == b.dim() and is_visible(a) and not torch.is_grad_enabled():
        return wide(_in_parts(lambda first, second: (first * second).sum(2, keepdim=True), a, b))
    return wide((a * b).sum(2, keepdim=True))


def add_product(total: Tensor, c: Tensor, x: Tensor, f: Tensor, more: Tensor | None = None) -> Tensor:
    """Return ``total + c * x + more``; ``c`` has one number per position, which may underflow in the type of ``x``.

    The result overwrites ``total``, which must not be needed otherwise, unless something records operations.

    The scale ``f`` determines units in which the product stays in range; on the CPU, where reading a value costs
    nothing, units are used only for images that need them.
    """
    top = None
    if is_visible(c) and c.numel():
        size = c.abs()
        ends = torch.aminmax(size)
        low, high = ends.min.item() or size.masked_fill(size == 0, 1).min().item(), ends.max.item()
        if torch.finfo(total.dtype).tiny < low and high < 1:
            found = total.addcmul_(rounded(c, x), x)
            return found if more is None else found.add_(more)
        axes = tuple(range(1, c.dim()))
        safe = ((size == 0) | ((size > torch.finfo(total.dtype).tiny) & (size < 1))).all(axes, keepdim=True)
        top = torch.where(safe, 1.0, longest(f))
    top = longest(f) if top is None else top
    factors = rounded(c * top, x), x / top
    if is_eager(x):
        found = total.addcmul_(*factors)
        return found if more is None else found.add_(more)
    found = total + factors[0] * factors[1]
    return found if more is None else found + more


def tangent_or_zeros(t: Tensor | None, of: Tensor) -> Tensor:
    """Return a tangent, or zeros like its tensor ``of`` if there is none."""
    return torch.zeros_like(of) if t is None else t


def over_samples(t: Tensor) -> Tensor:
    """Return the sum over batch and space, in the layout of a bias."""
    return t.sum((0, *range(3, t.dim())), keepdim=True).squeeze(0)


def over_kernel(W: Tensor) -> Tensor:
    """Return the sum over the filter's input channels and space, in the layout of a bias."""
    return W.sum((2, *range(3, W.dim())), keepdim=True).squeeze(2)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a - b`` for ``a >= b``, and zero where the difference may be only rounding error."""
    rest = a - b
    return rest.masked_fill(rest <= a * torch.finfo(a.dtype).eps ** 0.75, 0)


def longest(f: Tensor) -> Tensor:
    """Return for each image a power of two proportional to its longest patch, which has the smallest scale.

    In this unit the entries of an image are so moderate that 16-bit products stay in range.
    """
    smallest = torch.where(f > 0, f, torch.inf).detach().amin(tuple(range(1, f.dim())), keepdim=True)
    tiny = torch.finfo(f.dtype).tiny * 64
    power = torch.exp2(torch.log2(smallest).neg().round() - 8).clamp(tiny, 1 / tiny)
    return torch.where(smallest < torch.inf, power, 1.0)


def wide(t: Tensor) -> Tensor:
    """Return the tensor in the type of numbers per position."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def rounded(c: Tensor, x: Tensor) -> Tensor:
    """Return ``c`` in the type for products with ``x``, at least float32, in the layout of ``x``.

    A product has the layout of its first factor, so groups of numbers per position must be laid out like channels.
    Compilers choose layouts themselves.
    """
    c = c.to(rounded_type(x))
    if c.shape[1] == 1 or is_compiling() or not 0 < x.stride(1) < x.stride(-1):
        return c
    return c.movedim(1, -1).contiguous().movedim(-1, 1)


def rounded_type(x: Tensor) -> torch.dtype:
    """Return the type of ``x``, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _is_pooled(e: Tensor, geometry: Geometry) -> bool:
    """Return whether torch's pooling computes a sum over patches; its padding may be at most half of the filter."""
    if len(geometry.kernel) != 2 or not is_visible(e) or not 0 < e.numel() <= _FEW:
        return False
    fits = all(2 * padding <= kernel for kernel, padding in zip(geometry.kernel, geometry.padding, strict=True))
    return fits and set(geometry.dilation) == {1}


def _pool(flat: Tensor, geometry: Geometry) -> Tensor:
    return F.avg_pool2d(flat, geometry.kernel, geometry.stride, geometry.padding, divisor_override=1)


def _in_parts(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return a function's result computed for some images at a time, so that intermediate results stay in a cache."""
    parts = tensors[0].numel() >> 18
    if parts < 2:
        return function(*tensors)
    return torch.cat([function(*some) for some in zip(*(t.chunk(parts) for t in tensors), strict=True)])


def _every(t: Tensor, axis: int, first: int, step: int, count: int) -> Tensor:
    """Return ``count`` entries along an axis from ``first`` in steps of ``step``, as a view."""
    return t[(slice(None),) * axis + (slice(first, first + (count - 1) * step + 1, step),)]


def _apart(t: Tensor, axis: int, step: int) -> Tensor:
    """Return the entries spread along an axis by ``step``, with zeros in between."""
    if step == 1:
        return t
    wide = F.pad(t.unsqueeze(axis + 1), (*[0, 0] * (t.dim() - axis - 1), 0, step - 1))
    return joined(wide, axis).narrow(axis, 0, (t.shape[axis] - 1) * step + 1)


def _around(t: Tensor, axis: int, before: int, length: int) -> Tensor:
    """Return the tensor with ``before`` zeros before it along an axis, and zeros after it up to ``length``."""
    return F.pad(t, (*[0, 0] * (t.dim() - axis - 1), before, length - before - t.shape[axis]))


def _first(y: Tensor, size: Sequence[int]) -> Tensor:
    """Return the first positions; an output lengthened by a stride or more has filters at further ones."""
    for axis, count in enumerate(size, start=3):
        y = y.narrow(axis, 0, count) if y.shape[axis] > count else y
    return y


def _up_to(y: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``y`` with zeros at the positions that it lacks."""
    more = [count - length for count, length in zip(size, y.shape[3:], strict=True)]
    return F.pad(y, [end for count in reversed(more) for end in (0, count)]) if any(more) else y
