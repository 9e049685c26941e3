"""Convolutions and sums over patches of tensors (batch, groups, channels, *space).

A tensor of one number a position has one channel, a tensor of one number an image one entry in every other axis, and a
bias is (groups, channels, 1, ..): so that all broadcast. One number a position is held in float64, where a device has
it: squares and cubes of what float32 holds do not overflow there.
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
    """How a kernel meets space, one number an axis; ``extra`` lengthens the output of a transposed convolution."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]


def gather(
    x: Tensor, W: Tensor, geometry: Geometry, bias: Tensor | None = None, size: Sequence[int] | None = None
) -> Tensor:
    """Return y[s,g,o,p] = sum of W[g,o,c,k] * x[s,g,c,stride*p + dilation*k - padding] over c and k, plus the bias.

    What lies outside ``x`` is zero; ``size`` is the number of positions p, if it is not as many as there are.
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
    """Return the gradients of what ``gather`` or ``scatter`` made with respect to ``x``, ``W`` and a bias.

    None where not wanted.

    The same as one of these and ``kernel_gradient``, in one call.
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
    """Return E[s,g,p] = sum of e[s,g,stride*p + dilation*k - padding] over k: one axis of space after the other.

    Where there are few numbers, one call that visits every entry of a patch takes less time than the calls for each
    axis.
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

    At a stride of one that is a sum over patches again.
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
    """Return how many positions a kernel has on images of these lengths."""
    axes = zip(lengths, zip(*geometry, strict=True), strict=True)
    return tuple((n + 2 * pad - hole * (k - 1) - 1) // step + 1 for n, (k, step, pad, hole, _) in axes)


def reach(positions: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """Return the lengths of the output of a transposed convolution of so many positions."""
    return tuple(
        (count - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + extra
        for count, (kernel, stride, padding, dilation, extra) in zip(
            positions, zip(*geometry, strict=True), strict=True
        )
    )


def grouped(flat: Tensor, groups: int) -> Tensor:
    """Return new channels (B, G*O, *P) as (B, G, O, *P), no view to autograd: its holder may change it in place.

    Where that is recorded nobody does, and a view is recorded for any number of images.
    """
    if not is_eager(flat):
        return split(flat, 1, groups)
    shape = (flat.shape[0], groups, flat.shape[1] // groups, *flat.shape[2:])
    found: Tensor = torch.ops.aten._unsafe_view(flat, shape)
    return found


def joined(t: Tensor, axis: int) -> Tensor:
    """Return the tensor with an axis of groups and the channels of each behind it as one axis.

    ``flatten`` takes less time, and has no rule for gradients that ``is_grads_batched`` maps over.
    """
    if is_compiling() or not _is_mapped(t):
        return t.flatten(axis, axis + 1)
    return t.reshape(*t.shape[:axis], t.shape[axis] * t.shape[axis + 1], *t.shape[axis + 2 :])


def _filters(W: Tensor, x: Tensor) -> Tensor:
    """Return W with its groups and outputs as one axis, as torch convolves one image, or many, with it.

    Where channels lie last in both, and the image is one, torch (2.11 to 2.14) takes a wrong step from one group to the
    next for the gradient with respect to W, so W is laid out plainly there.
    """
    flat = joined(W, 0)
    return flat.contiguous() if x.shape[1] > 1 and x.shape[0] == 1 else flat


def split(t: Tensor, axis: int, groups: int) -> Tensor:
    """Return the tensor with an axis of channels taken apart into groups and channels of each."""
    return t.reshape(*t.shape[:axis], groups, t.shape[axis] // groups, *t.shape[axis + 1 :])


def squares(x: Tensor) -> Tensor:
    """Return the sum of the squares over the channels; what is too small for its square root to be normal is zero."""
    total = wide(x).square().sum(2, keepdim=True)
    return total.masked_fill(total < torch.finfo(rounded_type(x)).tiny ** 2, 0)


def squares_without_graph(x: Tensor) -> Tensor:
    """Return the same for a plain tensor when no graph is recorded, with fewer passes over the memory.

    On the CPU, where looking at a value costs nothing, sums that are safe to take in the type of ``x`` are, one by
    one: no bit of an image depends on the values of others. Raise ``FarError`` where images are far.
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
    """Return ``total + c * x``, plus ``more``: ``c`` is one number a position, perhaps too small for the type of ``x``.

    It takes the memory of ``total``, which nothing else may need, unless something records what is done.

    The scale ``f`` says in which units their product can be taken; on the CPU, where looking at a value costs nothing,
    it is taken as it is for each image where that is safe.
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
    """Return a tangent, or zeros like the tensor that it is of where that does not move."""
    return torch.zeros_like(of) if t is None else t


def over_samples(t: Tensor) -> Tensor:
    """Return the sum over batch and space, as a bias is laid out."""
    return t.sum((0, *range(3, t.dim())), keepdim=True).squeeze(0)


def over_kernel(W: Tensor) -> Tensor:
    """Return the sum over the input channels and the kernel, as a bias is laid out."""
    return W.sum((2, *range(3, W.dim())), keepdim=True).squeeze(2)


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a - b`` of numbers of which ``a`` is the larger, and zero where rounding may be all that is left."""
    rest = a - b
    return rest.masked_fill(rest <= a * torch.finfo(a.dtype).eps ** 0.75, 0)


def longest(f: Tensor) -> Tensor:
    """Return for each image a power of two in proportion to its longest patch, which has the smallest scale.

    In its units the entries of an image are neither so large nor so small that products of 16 bit leave their range.
    """
    smallest = torch.where(f > 0, f, torch.inf).detach().amin(tuple(range(1, f.dim())), keepdim=True)
    tiny = torch.finfo(f.dtype).tiny * 64
    power = torch.exp2(torch.log2(smallest).neg().round() - 8).clamp(tiny, 1 / tiny)
    return torch.where(smallest < torch.inf, power, 1.0)


def wide(t: Tensor) -> Tensor:
    """Return the tensor in the type of one number a position."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)


def rounded(c: Tensor, x: Tensor) -> Tensor:
    """Return ``c`` in the type in which it multiplies entries of ``x``, at least float32, laid out as ``x`` is.

    The layout of a product is that of its first factor: groups of one number a position must lie where channels lie.
    Compilers choose layouts by themselves.
    """
    c = c.to(rounded_type(x))
    if c.shape[1] == 1 or is_compiling() or not 0 < x.stride(1) < x.stride(-1):
        return c
    return c.movedim(1, -1).contiguous().movedim(-1, 1)


def rounded_type(x: Tensor) -> torch.dtype:
    """Return the type of ``x``, but at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _is_pooled(e: Tensor, geometry: Geometry) -> bool:
    """Return whether a sum over patches is left to torch's pooling, whose padding is at most half of the kernel."""
    if len(geometry.kernel) != 2 or not is_visible(e) or not 0 < e.numel() <= _FEW:
        return False
    fits = all(2 * padding <= kernel for kernel, padding in zip(geometry.kernel, geometry.padding, strict=True))
    return fits and set(geometry.dilation) == {1}


def _pool(flat: Tensor, geometry: Geometry) -> Tensor:
    return F.avg_pool2d(flat, geometry.kernel, geometry.stride, geometry.padding, divisor_override=1)


def _in_parts(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return what a function gives for some images at a time: its intermediate results then stay in a cache."""
    parts = tensors[0].numel() >> 18
    if parts < 2:
        return function(*tensors)
    return torch.cat([function(*some) for some in zip(*(t.chunk(parts) for t in tensors), strict=True)])


def _every(t: Tensor, axis: int, first: int, step: int, count: int) -> Tensor:
    """Return ``count`` entries along an axis, every ``step`` of them from ``first`` on, as a view."""
    return t[(slice(None),) * axis + (slice(first, first + (count - 1) * step + 1, step),)]


def _apart(t: Tensor, axis: int, step: int) -> Tensor:
    """Return the entries along an axis ``step`` apart, with zeros in between."""
    if step == 1:
        return t
    wide = F.pad(t.unsqueeze(axis + 1), (*[0, 0] * (t.dim() - axis - 1), 0, step - 1))
    return joined(wide, axis).narrow(axis, 0, (t.shape[axis] - 1) * step + 1)


def _around(t: Tensor, axis: int, before: int, length: int) -> Tensor:
    """Return the tensor with so many zeros before it along an axis, and behind it up to a length."""
    return F.pad(t, (*[0, 0] * (t.dim() - axis - 1), before, length - before - t.shape[axis]))


def _first(y: Tensor, size: Sequence[int]) -> Tensor:
    """Return the first positions: an output that was lengthened by a stride or more has a kernel at further ones."""
    for axis, count in enumerate(size, start=3):
        y = y.narrow(axis, 0, count) if y.shape[axis] > count else y
    return y


def _up_to(y: Tensor, size: Sequence[int]) -> Tensor:
    """Return ``y`` with zeros at the positions that it lacks."""
    more = [count - length for count, length in zip(size, y.shape[3:], strict=True)]
    return F.pad(y, [end for count in reversed(more) for end in (0, count)]) if any(more) else y
