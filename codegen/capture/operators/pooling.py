"""Pooling and interpolation: sums or maxima over windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.convolutions import counted, each
from codegen.capture.operators.reductions import averaged, reduced, without
from codegen.capture.operators.table import rule
from codegen.capture.values import (
    ONE,
    ZERO,
    Indices,
    Value,
    broadcast,
    plain,
    reshaped,
    whole_quotient,
    with_axis,
    within,
)
from derive.algebra.reductions import Largest


def windows(form: Forming, value: Value, filters: Sequence[Expr], steps: Sequence[Expr], pads: Sequence[Expr]) -> Value:
    """Return the windows over the last axes, as many new last axes; entries outside are zero."""
    space, lead = len(filters), len(value.shape) - len(filters)
    image, positions = form.factor(value), form.shape[-space:]

    def at(i: Indices) -> Expr:
        """Return an entry of a window."""
        outside, inside = i[lead : lead + space], i[lead + space :]
        places = [sympy.expand(s * p + k - q) for s, p, k, q in zip(steps, outside, inside, pads, strict=True)]
        guards = [within(p, n) for p, n in zip(places, value.shape[lead:], strict=True)]
        return sympy.Mul(image.at((*i[:lead], *places)), *guards)

    shape = (*value.shape[:lead], *positions, *filters)
    return Value(shape, at, (*image.grains[:lead], *map(plain, (*positions, *filters))))


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    form: Forming,
    self: Value,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = ZERO,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value:
    """The mean over a window, which includes the zeros of the padding."""
    space = len(kernel_size) if isinstance(kernel_size, tuple) else 1
    pads = each(padding, space)
    if ceil_mode or divisor_override is not None or (not count_include_pad and any(p != 0 for p in pads)):
        raise refuse("average pooling uses ceil_mode, a divisor or uncounted padding", "leave these settings out")
    filters = each(kernel_size, space)
    steps = filters if stride in ((), None) else each(stride, space)
    seen = windows(form, self, filters, steps, pads)
    found = averaged(form, seen, range(len(seen.shape) - space, len(seen.shape)))
    return reshaped(found, seen.shape[:-space], form.size)


def _equal_windows(form: Forming, self: Value, output_size: Any) -> tuple[Value, list[int]]:
    """Return the tensor with each last axis split into (window, place in it), and the axes of places."""
    lead = len(self.shape) - len(output_size)
    shape: list[Expr] = list(self.shape[:lead])
    for n, count in zip(self.shape[lead:], output_size, strict=True):
        share = whole_quotient(n, count)
        if share is None:
            raise refuse(
                f"{count} windows over {n} places differ in size", "make the length a multiple of the number of windows"
            )
        shape += [count, share]
    return reshaped(self, tuple(shape), form.size), list(range(lead + 1, len(shape), 2))


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def adaptive_avg_pool(form: Forming, self: Value, output_size: Any) -> Value:
    """The mean over ``output_size`` equal windows."""
    apart, inner = _equal_windows(form, self, output_size)
    lead = len(self.shape) - len(output_size)
    return reshaped(averaged(form, apart, inner), (*self.shape[:lead], *output_size), form.size)


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(form: Forming, self: Value, output_size: Any) -> tuple[Value, None]:
    """The maxima of ``output_size`` equal windows, without their places."""
    apart, inner = _equal_windows(form, self, output_size)
    lead = len(self.shape) - len(output_size)
    found = reduced(form, form.settle(apart), inner, Largest)
    return reshaped(found, (*self.shape[:lead], *output_size), form.size), None


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d")
def upsample_nearest(
    form: Forming, self: Value | None = None, input: Value | None = None, output_size: Any = None, **settings: Any
) -> Value:
    """Every entry repeated, an integer number of times along each axis."""
    found = self if input is None else input
    assert found is not None
    for place in range(2, len(form.shape)):
        count = whole_quotient(form.shape[place], found.shape[place])
        if count is None:
            raise refuse(
                f"interpolation from {found.shape[place]} to {form.shape[place]} is not by an integer",
                "use an integer factor",
            )
        wide = with_axis(found, place + 1)
        wide = broadcast(wide, [count if j == place + 1 else n for j, n in enumerate(wide.shape)])
        merged = [form.shape[place] if j == place else n for j, n in enumerate(found.shape)]
        found = reshaped(wide, merged, form.size)
    return found


@rule("im2col")
def im2col(form: Forming, self: Value, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Value:
    """The patches of an image as columns."""
    filters, gaps, pads, steps = (each(v, 2) for v in (kernel_size, dilation, padding, stride))
    counts = [
        counted(sympy.expand(n + 2 * p - d * (k - 1) - 1), s)
        for n, p, d, k, s in zip(self.shape[2:], pads, gaps, filters, steps, strict=True)
    ]
    image = form.factor(self)
    shape = (*self.shape[:2], *filters, *counts)

    def at(i: Indices) -> Expr:
        """Return an entry of a patch."""
        places = [
            sympy.expand(s * p + d * k - q) for s, p, d, k, q in zip(steps, i[4:], gaps, i[2:4], pads, strict=True)
        ]
        guards = [within(p, n) for p, n in zip(places, self.shape[2:], strict=True)]
        return sympy.Mul(image.at((*i[:2], *places)), *guards)

    return reshaped(Value(shape, at, (*image.grains[:2], *map(plain, shape[2:]))), form.shape, form.size)


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    form: Forming,
    self: Value,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = ZERO,
    dilation: Any = ONE,
    ceil_mode: bool = False,
) -> Value:
    """The largest entry of a window, without padding."""
    space = len(kernel_size) if isinstance(kernel_size, tuple) else 1
    if ceil_mode or any(p != 0 for p in each(padding, space)) or any(d != 1 for d in each(dilation, space)):
        raise refuse("max pooling uses padding, dilation or ceil_mode", "leave these settings out, and pad before")
    filters = each(kernel_size, space)
    steps = filters if stride in ((), None) else each(stride, space)
    seen = windows(form, form.settle(self), filters, steps, (ZERO,) * space)
    axes = list(range(len(seen.shape) - space, len(seen.shape)))
    return without(reduced(form, seen, axes, Largest), axes)
