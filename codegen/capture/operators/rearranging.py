"""Padding, windows and rearrangements: entries added around, repeated, reversed or interleaved."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, KroneckerDelta

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.table import rule
from codegen.capture.values import (
    ONE,
    ZERO,
    Indices,
    Value,
    axis,
    broadcast,
    concatenated,
    padded,
    permuted,
    plain,
    reshaped,
    sliced,
    with_axis,
)


@rule("pad", "constant_pad_nd")
def pad(form: Forming, self: Value, pad: Any, mode: str = "constant", value: Any = None) -> Value:
    """The tensor padded, the last axis first."""
    value_at = ZERO if value is None else sympy.sympify(value)
    found = self if mode != "constant" else form.factor(self)
    for k in range(len(pad) // 2):
        place, before, after = len(self.shape) - 1 - k, sympy.sympify(pad[2 * k]), sympy.sympify(pad[2 * k + 1])
        if mode == "constant":
            found = padded(found, place, before, after, value_at)
        else:
            found = concatenated(_around(found, place, before, after, mode), place)
    return found


def _around(value: Value, place: int, before: Expr, after: Expr, mode: str) -> list[Value]:
    """Return the parts that reflect, replicate or circular padding puts before and after a tensor."""
    n = value.shape[place]
    starts = {
        "reflect": (lambda p: before - p, lambda p: n - 2 - p),
        "replicate": (lambda p: ZERO, lambda p: n - 1),
        "circular": (lambda p: n - before + p, lambda p: p),
    }
    if mode not in starts:
        raise refuse(f"padding mode {mode!r} has no rule", "use constant, reflect, replicate or circular")
    first, last = starts[mode]

    def part(length: Expr, place_of: Any) -> Value:
        """Return ``length`` places of the axis; place k is read at ``place_of(k)``."""
        shape = [length if k == place else m for k, m in enumerate(value.shape)]
        grains = [plain(length) if k == place else g for k, g in enumerate(value.grains)]
        return value.reindexed(shape, lambda i: (*i[:place], sympy.expand(place_of(i[place])), *i[place + 1 :]), grains)

    return [*([part(before, first)] if before != 0 else []), value, *([part(after, last)] if after != 0 else [])]


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(form: Forming, self: Value, padding: Any) -> Value:
    """The tensor mirrored at its ends."""
    return pad(form, self, padding, "reflect")


@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(form: Forming, self: Value, padding: Any) -> Value:
    """The tensor's ends repeated."""
    return pad(form, self, padding, "replicate")


@rule("roll")
def roll(form: Forming, self: Value, shifts: Any, dims: Any = ()) -> Value:
    """Entries shifted cyclically along an axis."""
    if not dims:
        raise refuse("roll is called without axes", "name the axis to roll along")
    for shift, dim in zip(shifts, dims, strict=True):
        place = axis(dim, len(self.shape))
        n, by = self.shape[place], sympy.sympify(shift)
        by = sympy.expand(n + by) if form.size(by) < 0 else by
        value = form.factor(self)
        self = concatenated(
            [sliced(value, place, sympy.expand(n - by), by), sliced(value, place, ZERO, sympy.expand(n - by))], place
        )
    return self


@rule("flip")
def flip(form: Forming, self: Value, dims: Any) -> Value:
    """The tensor with axes reversed."""
    places = {axis(d, len(self.shape)) for d in dims}
    shape = self.shape

    def back(i: Indices) -> Indices:
        return tuple(sympy.expand(shape[k] - 1 - p) if k in places else p for k, p in enumerate(i))

    grains = [plain(n) if k in places else g for k, (n, g) in enumerate(zip(shape, self.grains, strict=True))]
    return self.reindexed(shape, back, grains)


@rule("unfold")
def unfold(form: Forming, self: Value, dimension: Expr, size: Expr, step: Expr) -> Value:
    """Windows along an axis, as a new last axis."""
    place = axis(dimension, len(self.shape))
    count = form.shape[place]
    shape = [*(count if k == place else n for k, n in enumerate(self.shape)), sympy.sympify(size)]
    grains = [*(plain(count) if k == place else g for k, g in enumerate(self.grains)), plain(sympy.sympify(size))]

    def back(i: Indices) -> Indices:
        return (*i[:place], sympy.expand(step * i[place] + i[-1]), *i[place + 1 : -1])

    return self.reindexed(shape, back, grains)


@rule("repeat", "tile")
def repeat(form: Forming, self: Value, repeats: Any = None, dims: Any = None) -> Value:
    """The tensor repeated along axes."""
    counts = [sympy.sympify(r) for r in (dims if repeats is None else repeats)]
    while len(self.shape) < len(counts):
        self = with_axis(self, 0)
    counts = [ONE] * (len(self.shape) - len(counts)) + counts
    old = self.shape
    for k in reversed(range(len(old))):
        if counts[k] != 1:
            self = with_axis(self, k)
            self = broadcast(self, [counts[k] if j == k else n for j, n in enumerate(self.shape)])
            merged = [*self.shape[:k], sympy.expand(self.shape[k] * self.shape[k + 1]), *self.shape[k + 2 :]]
            self = reshaped(self, merged, form.size)
    return self


@rule("repeat_interleave")
def repeat_interleave(form: Forming, self: Value, repeats: Any, dim: Any = None, output_size: Any = None) -> Value:
    """Every entry along an axis repeated several times in a row."""
    if isinstance(repeats, Value) or dim is None:
        raise refuse("repeat_interleave gets a tensor of counts, or no axis", "give one count and the axis")
    place = axis(dim, len(self.shape))
    wide = with_axis(self, place + 1)
    wide = broadcast(wide, [repeats if k == place + 1 else n for k, n in enumerate(wide.shape)])
    shape = [*self.shape[:place], sympy.expand(self.shape[place] * repeats), *self.shape[place + 1 :]]
    return reshaped(wide, shape, form.size)


@rule("pixel_shuffle")
def pixel_shuffle(form: Forming, self: Value, upscale_factor: Expr) -> Value:
    """Channels rearranged into an image that is larger by a factor."""
    *lead, c, h, w = self.shape
    r, n = sympy.sympify(upscale_factor), len(lead)
    split_channels = reshaped(self, (*lead, sympy.cancel(c / r**2), r, r, h, w), form.size)
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    shape = (*lead, sympy.cancel(c / r**2), sympy.expand(h * r), sympy.expand(w * r))
    return reshaped(permuted(split_channels, order), shape, form.size)


@rule("pixel_unshuffle")
def pixel_unshuffle(form: Forming, self: Value, downscale_factor: Expr) -> Value:
    """Blocks of an image rearranged into channels."""
    *lead, c, h, w = self.shape
    r, n = sympy.sympify(downscale_factor), len(lead)
    parts = reshaped(self, (*lead, c, sympy.cancel(h / r), r, sympy.cancel(w / r), r), form.size)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    shape = (*lead, sympy.expand(c * r**2), sympy.cancel(h / r), sympy.cancel(w / r))
    return reshaped(permuted(parts, order), shape, form.size)


@rule("channel_shuffle")
def channel_shuffle(form: Forming, self: Value, groups: Expr) -> Value:
    """Channels of groups interleaved."""
    n, c, *rest = self.shape
    parts = reshaped(self, (n, groups, sympy.cancel(c / groups), *rest), form.size)
    return reshaped(permuted(parts, [0, 2, 1, *range(3, 3 + len(rest))]), (n, c, *rest), form.size)


@rule("diag")
def diag(form: Forming, self: Value, diagonal: Expr = ZERO) -> Value:
    """The diagonal of a matrix, or the matrix with a diagonal."""
    return diagonal_of(form, self, diagonal) if len(self.shape) == 2 else diag_embed(form, self, diagonal)


@rule("diag_embed")
def diag_embed(form: Forming, self: Value, offset: Expr = ZERO, dim1: Expr = -2 * ONE, dim2: Expr = -ONE) -> Value:
    """``z[.., i, j] = a[.., i] (i == j)``."""
    if offset != 0 or (dim1, dim2) != (-2, -1):
        raise refuse(
            "diag_embed uses a diagonal off the main one, or other axes",
            "embed on the main diagonal, then pad or permute",
        )
    entry = form.factor(self)
    shape = (*self.shape, self.shape[-1])
    return Value(
        shape,
        lambda i: KroneckerDelta(i[-2], i[-1]) * entry.at(i[:-1]),
        (*entry.grains[:-1], plain(shape[-1]), plain(shape[-1])),
    )


@rule("diagonal")
def diagonal_of(form: Forming, self: Value, offset: Expr = ZERO, dim1: Expr = ZERO, dim2: Expr = ONE) -> Value:
    """The diagonal of two axes, as a new last axis."""
    a, b = axis(dim1, len(self.shape)), axis(dim2, len(self.shape))
    kept = [k for k in range(len(self.shape)) if k not in (a, b)]
    n = form.shape[-1]
    down, across = (ZERO, offset) if form.size(sympy.sympify(offset)) >= 0 else (-offset, ZERO)

    def back(i: Indices) -> Indices:
        """Return the indices in the whole tensor of an entry of the diagonal."""
        places = dict(zip(kept, i, strict=False))
        return tuple(
            i[-1] + down if k == a else i[-1] + across if k == b else places[k] for k in range(len(self.shape))
        )

    return self.reindexed([*(self.shape[k] for k in kept), n], back, [*(self.grains[k] for k in kept), plain(n)])
