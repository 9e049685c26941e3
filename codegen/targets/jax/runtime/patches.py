"""Convolutions and sums over patches, of arrays and of numbers of any size.

Arrays are (batch, groups, channels, *space), with one channel for one number per position; filters are (groups, output
channels, input channels, *kernel); biases are (groups, channels, 1, ..). The functions work for any number of axes of
space.

A convolution of wide numbers computes with each group of each image in units of its largest entry; entries smaller than
that by more than the type's range count as zero. A sum over patches has its own unit at every position.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from . import wide
from .wide import NONE, Wide, in_units, normalised


class Geometry(NamedTuple):
    """The settings of a convolution, one per axis of space; ``extra`` lengthens the output of a transposed one."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    extra: tuple[int, ...]


def gather(x: Any, W: Any, geometry: Geometry, size: Sequence[int]) -> Any:
    """Return y[s,g,o,p] = sum of W[g,o,c,k] * x[s,g,c,stride*p + dilation*k - padding] over c and k, for p < size."""

    def convolved(x: Array, W: Array) -> Array:
        axes = zip(
            x.shape[3:], size, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
        ends = [(pad, (n - 1) * step + hole * (k - 1) + 1 - pad - length) for length, n, k, step, pad, hole in axes]
        return _convolved(x, W, strides=geometry.stride, ends=ends, holes=geometry.dilation)

    return _product(convolved, x, W)


def scatter(y: Any, W: Any, geometry: Geometry, size: Sequence[int]) -> Any:
    """Return x[s,g,c,l] = sum of W[g,o,c,k] * y[s,g,o,p] over o, k, p where stride*p + dilation*k - padding = l < size.

    This is the transpose of ``gather``.
    """

    def convolved(y: Array, W: Array) -> Array:
        turned = jnp.flip(W.swapaxes(1, 2), tuple(range(3, W.ndim)))
        axes = zip(
            y.shape[3:], size, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
        ends = [(hole * (k - 1) - pad, n - (count - 1) * step - 1 + pad) for count, n, k, step, pad, hole in axes]
        none = (1,) * len(size)
        return _convolved(y, turned, strides=none, ends=ends, holes=geometry.dilation, apart=geometry.stride)

    return _product(convolved, y, W)


def kernel_gradient(y: Any, x: Any, geometry: Geometry) -> Any:
    """Return W[g,o,c,k] = sum of y[s,g,o,p] * x[s,g,c,stride*p + dilation*k - padding] over s and p."""
    if isinstance(y, Wide) and isinstance(x, Wide):  # a large image of one may be paired with a small one of the other
        top = x.top(tuple(range(1, x.exponent.ndim)))
        x, y = x.shifted(-top), y.shifted(top)

    def correlated(y: Array, x: Array) -> Array:
        lengths = zip(x.shape[3:], y.shape[3:], geometry.kernel, strict=True)
        numbers = zip(geometry.stride, geometry.padding, geometry.dilation, strict=True)
        ends = [
            (pad, hole * (k - 1) + step * (count - 1) + 1 - length - pad)
            for (length, count, k), (step, pad, hole) in zip(lengths, numbers, strict=True)
        ]
        images, kernels = x.transpose(2, 1, 0, *range(3, x.ndim)), y.transpose(1, 2, 0, *range(3, y.ndim))
        found = _convolved(images, kernels, strides=geometry.dilation, ends=ends, holes=geometry.stride)
        return found.transpose(1, 2, 0, *range(3, found.ndim))

    return _product(correlated, y, x, whole=True)


def _convolved(
    x: Array,
    W: Array,
    strides: Sequence[int],
    ends: Sequence[tuple[int, int]],
    holes: Sequence[int],
    apart: Sequence[int] | None = None,
) -> Array:
    """Return the convolution by ``lax`` of images (B, G, C, *L) and filters (G, O, C, *K), as (B, G, O, *P)."""
    groups, space = x.shape[1], "xyz"[: x.ndim - 3]
    found = lax.conv_general_dilated(
        x.reshape(x.shape[0], groups * x.shape[2], *x.shape[3:]),
        W.reshape(groups * W.shape[1], *W.shape[2:]),
        strides,
        ends,
        lhs_dilation=apart,
        rhs_dilation=holes,
        dimension_numbers=(f"NC{space}", f"OI{space}", f"NC{space}"),
        feature_group_count=groups,
    )
    return found.reshape(found.shape[0], groups, W.shape[1], *found.shape[2:])


def _product(function: Callable[[Array, Array], Array], one: Any, two: Any, whole: bool = False) -> Any:
    """Return ``function(one, two)``: a convolution, or if ``whole`` a sum over images, which gives a filter.

    Wide numbers are in units of the largest entry of an image's group, or if ``whole`` of all summed entries.
    """
    made, exponents = [], []
    for value, kernel in ((one, False), (two, not whole)):
        if isinstance(value, Wide):
            group = 0 if kernel else 1
            own = (group,) if kernel or whole else (0, group)
            top = value.top(tuple(k for k in range(value.exponent.ndim) if k not in own))
            exponents.append(top[0][:, None] if whole else top[None][:, :, :, 0] if kernel else top)
            value = in_units(value, top)
        made.append(value)
    found = function(*made)
    linear = any(isinstance(value, Wide) and value.linear for value in (one, two))
    return normalised(found, sum(exponents[1:], start=exponents[0]), linear) if exponents else found


def box(e: Any, geometry: Geometry, size: Sequence[int]) -> Any:
    """Return E[s,g,p] = sum of e[s,g,stride*p + dilation*k - padding] over k, p < size, axis by axis."""
    numbers = zip(size, *geometry[:4], strict=True)
    for axis, (n, kernel, stride, padding, dilation) in enumerate(numbers, start=3):
        reached = (n - 1) * stride + dilation * (kernel - 1) + 1
        e = _summed(e, axis, (padding, reached - padding), 0, [(dilation * k, stride, n) for k in range(kernel)])
    return e


def spread(t: Any, geometry: Geometry, size: Sequence[int]) -> Any:
    """Return e[s,g,l] = sum of t[s,g,p] over k and p where stride*p + dilation*k - padding = l < size."""
    numbers = zip(size, *geometry[:4], strict=True)
    for axis, (n, kernel, stride, padding, dilation) in enumerate(numbers, start=3):
        reach = dilation * (kernel - 1)
        starts = [(reach - dilation * k, 1, n) for k in range(kernel)]
        t = _summed(t, axis, (reach - padding, n + padding), stride - 1, starts)
    return t


def deviations(x: Any, m: Any, geometry: Geometry) -> Any:
    """Return the sum of (x[s,g,c,stride*p + dilation*k - padding] - m[s,g,p])**2 over c and k, entry by entry.

    This equals the sum of squares minus that of the mean, a difference that rounding would destroy in nearly constant
    patches. Entries outside an image are zero.
    """
    size = m.mantissa.shape[3:] if isinstance(m, Wide) else m.shape[3:]
    parts = []
    for place in itertools.product(*map(range, geometry.kernel)):
        part = x
        numbers = zip(size, place, *geometry[1:4], strict=True)
        for axis, (n, k, stride, padding, dilation) in enumerate(numbers, start=3):
            reached = (n - 1) * stride + dilation * k + 1
            (part,) = _slices(part, axis, (padding, reached - padding), 0, [(dilation * k, stride, n)])
        rest = part - m
        parts.append(wide.total(rest * rest, (2,)))
    return _added(parts)


def _summed(e: Any, axis: int, ends: tuple[int, int], between: int, starts: Sequence[tuple[int, int, int]]) -> Any:
    return _added(_slices(e, axis, ends, between, starts))


def _slices(
    e: Any, axis: int, ends: tuple[int, int], between: int, starts: Sequence[tuple[int, int, int]]
) -> list[Any]:
    """Return slices (start, step, count) of an axis padded with zeros before, between and after its entries."""

    def along(array: Array, fill: int, start: int, step: int, count: int) -> Array:
        length = max(array.shape[axis] - 1, 0) * (between + 1) + (array.shape[axis] > 0)
        around = [(0, 0, 0)] * array.ndim
        around[axis] = (ends[0], ends[1] - length, between)
        padded = lax.pad(array, jnp.asarray(fill, array.dtype), around)
        return lax.slice_in_dim(padded, start, start + (count - 1) * step + 1, step, axis)

    def taken(*chosen: int) -> Any:
        if not isinstance(e, Wide):
            return along(e, 0, *chosen)
        none = NONE if e.linear else 0  # a tangent's size is never read, so its zeros must not determine the unit
        return Wide(along(e.mantissa, 0, *chosen), along(e.exponent, none, *chosen), e.linear)

    return [taken(*start) for start in starts]


def _added(parts: Sequence[Any]) -> Any:
    """Return the sum of values of one shape; wide ones in units of the largest at every position."""
    if not isinstance(parts[0], Wide):
        return sum(parts[1:], start=parts[0])
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *parts)
    return wide.total(stacked, (0,))[0]


def over_channels(value: Any) -> Any:
    """Return the sum over the channels."""
    return wide.total(value, (2,))


def over_samples(value: Any) -> Any:
    """Return the sum over batch and space, in the layout of a bias."""
    return wide.total(value, (0, *range(3, _axes(value))))[0]


def over_kernel(W: Any) -> Any:
    """Return the sum over the filter's input channels and space, in the layout of a bias."""
    found = wide.total(W, tuple(range(2, _axes(W))))
    return found[:, :, 0]


def _axes(value: Any) -> int:
    return int(value.mantissa.ndim if isinstance(value, Wide) else value.ndim)


def positions_of(lengths: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """Return the number of positions of a filter on images of these lengths."""
    axes = zip(lengths, *geometry[:4], strict=True)
    return tuple((n + 2 * pad - hole * (k - 1) - 1) // step + 1 for n, k, step, pad, hole in axes)


def reach(positions: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """Return the output lengths of a transposed convolution with these numbers of positions."""
    axes = zip(positions, *geometry, strict=True)
    return tuple((n - 1) * step + hole * (k - 1) + 1 - 2 * pad + more for n, k, step, pad, hole, more in axes)


def entries(geometry: Geometry) -> int:
    """Return the number of a filter's entries per channel."""
    return math.prod(geometry.kernel)
