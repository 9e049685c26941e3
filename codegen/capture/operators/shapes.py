"""Shape operations: they compute nothing and only rewrite indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.table import rule
from codegen.capture.values import (
    ONE,
    ZERO,
    Value,
    axis,
    broadcast,
    concatenated,
    permuted,
    reshaped,
    selected,
    sliced,
    with_axis,
)


@rule(
    "alias",
    "contiguous",
    "clone",
    "to",
    "_to_copy",
    "type_as",
    "lift_fresh_copy",
    "lift_fresh",
    "detach_",
    "float",
    "double",
    "view_as_real_copy",
    "positive",
    "conj",
    "resolve_conj",
    "resolve_neg",
    "_conj",
    "requires_grad_",
)
def unchanged(form: Forming, self: Value, **settings: Any) -> Value:
    """The tensor itself: copies and casts do not change the mathematics."""
    return self


def full_shape(value: Value, shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """Return a shape with its one -1 replaced by the length that it stands for."""
    count = sympy.Mul(*value.shape)
    known = sympy.Mul(*(n for n in shape if n != -1))
    return tuple(sympy.cancel(count / known) if n == -1 else sympy.sympify(n) for n in shape)


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "view_copy")
def view(form: Forming, self: Value, size: Any = None, shape: Any = None) -> Value:
    """The tensor in another shape."""
    wanted = full_shape(self, size if shape is None else shape)
    try:
        return reshaped(self, wanted, form.size)
    except RecursionError as problem:  # pragma: no cover
        raise refuse("a view is too complicated to follow", "reshape step by step") from problem


@rule("view_as", "reshape_as")
def view_as(form: Forming, self: Value, other: Value) -> Value:
    """The tensor in another tensor's shape."""
    return reshaped(self, other.shape, form.size)


@rule("flatten")
def flatten(form: Forming, self: Value, start_dim: Expr = ZERO, end_dim: Expr = -ONE) -> Value:
    """Adjacent axes merged into one."""
    if not self.shape:
        return reshaped(self, (ONE,), form.size)
    first, last = axis(start_dim, len(self.shape)), axis(end_dim, len(self.shape))
    merged = sympy.expand(sympy.Mul(*self.shape[first : last + 1]))
    return reshaped(self, (*self.shape[:first], merged, *self.shape[last + 1 :]), form.size)


@rule("unflatten")
def unflatten(form: Forming, self: Value, dim: Expr, sizes: Any) -> Value:
    """One axis split into several."""
    place = axis(dim, len(self.shape))
    known = sympy.Mul(*(n for n in sizes if n != -1))
    split = tuple(sympy.cancel(self.shape[place] / known) if n == -1 else n for n in sizes)
    return reshaped(self, (*self.shape[:place], *split, *self.shape[place + 1 :]), form.size)


@rule("transpose", "swapaxes", "transpose_")
def transpose(form: Forming, self: Value, dim0: Expr, dim1: Expr) -> Value:
    """Two axes exchanged."""
    order = list(range(len(self.shape)))
    a, b = axis(dim0, len(order)), axis(dim1, len(order))
    order[a], order[b] = order[b], order[a]
    return permuted(self, order)


@rule("permute")
def permute(form: Forming, self: Value, dims: Any) -> Value:
    """The axes in another order."""
    return permuted(self, [int(d) for d in dims])


@rule("movedim", "moveaxis")
def movedim(form: Forming, self: Value, source: Any, destination: Any) -> Value:
    """Axes moved to other positions."""
    count = len(self.shape)
    taken, put = ([axis(d, count) for d in (x if isinstance(x, tuple) else (x,))] for x in (source, destination))
    rest = iter(k for k in range(count) if k not in taken)
    places = dict(zip(put, taken, strict=True))
    return permuted(self, [places[k] if k in places else next(rest) for k in range(count)])


@rule("t", "numpy_T", "mT", "matrix_H", "adjoint")
def transposed(form: Forming, self: Value) -> Value:
    """The last two axes exchanged."""
    return self if len(self.shape) < 2 else transpose(form, self, -ONE, -2 * ONE)


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(form: Forming, self: Value, dim: Expr) -> Value:
    """An axis of length 1 inserted."""
    return with_axis(self, axis(dim, len(self.shape) + 1))


@rule("squeeze")
def squeeze(form: Forming, self: Value, dim: Any = None) -> Value:
    """Axes of length 1 removed."""
    count = len(self.shape)
    chosen = range(count) if dim is None else [axis(d, count) for d in (dim if isinstance(dim, tuple) else (dim,))]
    for k in sorted((k for k in chosen if self.shape[k] == 1), reverse=True):
        self = selected(self, k, ZERO)
    return self


@rule("expand")
def expand(form: Forming, self: Value, size: Any, implicit: bool = False) -> Value:
    """Axes of length 1 repeated, without a copy."""
    lead = len(size) - len(self.shape)
    shape = [self.shape[k - lead] if n == -1 else sympy.sympify(n) for k, n in enumerate(size)]
    return broadcast(self, shape)


@rule("expand_as")
def expand_as(form: Forming, self: Value, other: Value) -> Value:
    """Axes of length 1 repeated up to another tensor's shape."""
    return broadcast(self, other.shape)


@rule("broadcast_to")
def broadcast_to(form: Forming, self: Value, size: Any) -> Value:
    """Axes of length 1 repeated."""
    return expand(form, self, size)


@rule("broadcast_tensors")
def broadcast_tensors(form: Forming, tensors: Any) -> tuple[Value, ...]:
    """Tensors expanded to their common shape."""
    from codegen.capture.values import broadcast_shape

    shape, _ = broadcast_shape(tensors)
    return tuple(broadcast(v, shape) for v in tensors)


def bounded(place: Any, length: Expr, form: Forming, otherwise: Expr) -> Expr:
    """Return a slice bound counted from the front and clipped to the axis."""
    if place is None:
        return otherwise
    found = sympy.sympify(place)
    at, whole = form.size(found), form.size(length)
    if at < 0:
        found, at = sympy.expand(length + found), at + whole
    return length if at >= whole else ZERO if at <= 0 else found


@rule("slice")
def slice_rule(
    form: Forming, self: Value, dim: Expr = ZERO, start: Any = None, end: Any = None, step: Expr = ONE
) -> Value:
    """Every ``step``-th entry from ``start`` up to ``end``."""
    place = axis(dim, len(self.shape))
    n = self.shape[place]
    first, last = bounded(start, n, form, ZERO), bounded(end, n, form, n)
    span = sympy.expand(last - first)
    if step == 1:
        return sliced(self, place, first, span)
    wanted = form.shape[place] if form.shape else sympy.cancel(span / step)
    return sliced(self, place, first, wanted, step)


@rule("narrow")
def narrow(form: Forming, self: Value, dim: Expr, start: Expr, length: Expr) -> Value:
    """A contiguous range of entries along an axis."""
    place = axis(dim, len(self.shape))
    return sliced(self, place, bounded(start, self.shape[place], form, ZERO), length)


@rule("select")
def select(form: Forming, self: Value, dim: Expr, index: Expr) -> Value:
    """The entries at one index of an axis, without that axis."""
    place = axis(dim, len(self.shape))
    at = sympy.expand(self.shape[place] + index) if form.size(sympy.sympify(index)) < 0 else sympy.sympify(index)
    return selected(self, place, at)


@rule("unbind")
def unbind(form: Forming, self: Value, dim: Expr = ZERO) -> tuple[Value, ...]:
    """The tensors at every index of an axis of fixed length."""
    place = axis(dim, len(self.shape))
    if not self.shape[place].is_Integer:
        raise refuse(f"unbind splits an axis of length {self.shape[place]}", "compute over the axis instead")
    return tuple(selected(self, place, sympy.Integer(k)) for k in range(int(self.shape[place])))


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(form: Forming, self: Value, dim: Expr = ZERO, **settings: Any) -> tuple[Value, ...]:
    """An axis split into blocks."""
    place = axis(dim, len(self.shape))
    parts, start = [], ZERO
    for shape in form.shape:
        parts.append(sliced(self, place, start, shape[place]))
        start = sympy.expand(start + shape[place])
    return tuple(parts)


@rule("cat", "concat", "concatenate")
def cat(form: Forming, tensors: Any, dim: Expr = ZERO) -> Value:
    """Tensors concatenated along an axis."""
    values = [v for v in tensors if v.shape != (ZERO,)]
    place = axis(dim, len(values[0].shape))
    return concatenated([form.factor(v) for v in values], place)


@rule("stack")
def stack(form: Forming, tensors: Any, dim: Expr = ZERO) -> Value:
    """Tensors stacked along a new axis."""
    place = axis(dim, len(tensors[0].shape) + 1)
    return concatenated([with_axis(form.factor(v), place) for v in tensors], place)
