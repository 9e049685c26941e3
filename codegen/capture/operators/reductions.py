"""Sums, means, variances, norms, extremes, products and running sums along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr, Rational

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.pointwise import as_real, no_infinity
from codegen.capture.operators.table import rule
from codegen.capture.values import ONE, ZERO, Indices, Value, axis, not_negative, plain, pointwise, selected
from derive.algebra.reductions import Largest, Product


def axes_of(dim: Any, count: int) -> list[int]:
    """Return the axes that a reduction names, or all axes if it names none."""
    if dim is None or dim == ():
        return list(range(count))
    return [axis(d, count) for d in (dim if isinstance(dim, tuple | list) else (dim,))]


def one_axis(dim: Any, count: int, what: str) -> int:
    """Return the one axis of a reduction; refuse several."""
    found = axes_of(dim, count)
    if len(found) != 1:
        raise refuse(f"{what} runs along {len(found)} axes", "flatten them first, or reduce one after the other")
    return found[0]


def total(form: Forming, value: Value, dims: Sequence[Any]) -> Value:
    """Return the sum along axes, which keep length 1."""
    no_infinity(value)
    axes = axes_of(tuple(dims), len(value.shape))
    chosen = form.factor(value) if any(len(g) > 1 for g in value.grains) else value

    def at(i: Indices) -> Expr:
        """Return the sum."""

        def term(bound: Indices) -> Expr:
            """Return one summand."""
            places = dict(zip(axes, bound, strict=True))
            return chosen.at(tuple(places.get(k, p) for k, p in enumerate(i)))

        return form.over([(chosen.shape[k], chosen.grains[k]) for k in axes], term)

    shape = [ONE if k in axes else n for k, n in enumerate(value.shape)]
    grains = [plain(ONE) if k in axes else g for k, g in enumerate(chosen.grains)]
    return Value(tuple(shape), at, tuple(grains))


def without(value: Value, axes: Sequence[int]) -> Value:
    """Return the tensor without axes of length 1."""
    for k in sorted(axes, reverse=True):
        value = selected(value, k, ZERO)
    return value


def count_of(value: Value, axes: Sequence[int]) -> Expr:
    """Return the product of the lengths of axes."""
    return sympy.expand(sympy.Mul(*(value.shape[k] for k in axes)))


@rule("sum")
def sum_rule(form: Forming, self: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """The sum along axes."""
    axes = axes_of(dim, len(self.shape))
    found = total(form, as_real(self), axes)
    return found if keepdim else without(found, axes)


def averaged(form: Forming, value: Value, axes: Sequence[int]) -> Value:
    """Return the mean along axes, which keep length 1."""
    count = count_of(value, axes)
    return pointwise(lambda t: t / count, total(form, value, axes))


@rule("mean")
def mean(form: Forming, self: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """The mean along axes."""
    axes = axes_of(dim, len(self.shape))
    found = averaged(form, as_real(self), axes)
    return found if keepdim else without(found, axes)


def centred(form: Forming, value: Value, axes: Sequence[int]) -> Value:
    """Return the tensor minus its mean along axes, settled."""
    entries = form.settle(value)
    middle = form.settle(averaged(form, entries, axes), "average")
    return form.settle(pointwise(lambda x, m: x - m, entries, middle), "centred")


def spread(form: Forming, differences: Value, axes: Sequence[int], correction: Expr) -> Value:
    """Return the variance of centred entries along axes, which keep length 1, settled."""
    count = count_of(differences, axes) - correction
    squares = pointwise(lambda c: c**2, differences)
    return form.settle(pointwise(lambda t: t / count, total(form, squares, axes)), "variance")


def _correction(correction: Any, unbiased: Any) -> Expr:
    if unbiased is not None:
        return ONE if unbiased else ZERO
    return ONE if correction is None else sympy.sympify(correction)


@rule("var")
def var(
    form: Forming, self: Value, dim: Any = None, unbiased: Any = None, correction: Any = None, keepdim: bool = False
) -> Value:
    """The variance along axes."""
    axes = axes_of(dim, len(self.shape))
    found = spread(form, centred(form, self, axes), axes, _correction(correction, unbiased))
    return found if keepdim else without(found, axes)


@rule("std")
def std(
    form: Forming, self: Value, dim: Any = None, unbiased: Any = None, correction: Any = None, keepdim: bool = False
) -> Value:
    """The root of the variance along axes."""
    return pointwise(sympy.sqrt, var(form, self, dim, unbiased, correction, keepdim))


@rule("var_mean")
def var_mean(
    form: Forming, self: Value, dim: Any = None, unbiased: Any = None, correction: Any = None, keepdim: bool = False
) -> tuple[Value, Value]:
    """The variance and the mean along axes."""
    return var(form, self, dim, unbiased, correction, keepdim), mean(form, self, dim, keepdim)


def length(form: Forming, value: Value, axes: Sequence[int], p: Any = 2) -> Value:
    """Return the p-norm along axes, which keep length 1, settled."""
    entries = form.settle(value)
    if p == 2:
        squares = form.settle(total(form, pointwise(lambda x: x**2, entries), axes), "squares")
        return pointwise(sympy.sqrt, squares)
    if p == 1:
        return form.settle(total(form, pointwise(sympy.Abs, entries), axes), "absolute")
    p = sympy.sympify(p)
    if p.is_Integer and p > 0 and p % 2 == 0:
        powers = form.settle(total(form, pointwise(lambda x: x**p, entries), axes), "powers")
        return pointwise(lambda t: t ** Rational(1, p), powers)
    raise refuse(f"a norm has order {p}", "use order 1, 2 or another even number")


@rule("linalg_vector_norm")
def vector_norm(
    form: Forming, self: Value, ord: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    """The p-norm along axes."""
    axes = axes_of(dim, len(self.shape))
    found = length(form, self, axes, sympy.sympify(ord))
    return found if keepdim else without(found, axes)


@rule("norm")
def norm(form: Forming, self: Value, p: Any = None, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """The p-norm along axes."""
    return vector_norm(form, self, sympy.Integer(2) if p is None or p == "fro" else p, dim, keepdim)


@rule("cumsum")
def cumsum(form: Forming, self: Value, dim: Expr, dtype: Any = None) -> Value:
    """``z[t] = sum over u <= t of a[u]``."""
    place = axis(dim, len(self.shape))
    value = form.factor(as_real(self))

    def at(i: Indices) -> Expr:
        """Return the sum up to a place."""

        def term(bound: Indices) -> Expr:
            """Return one summand, 0 beyond the place."""
            return not_negative(i[place] - bound[0]) * value.at((*i[:place], bound[0], *i[place + 1 :]))

        return form.over([(value.shape[place], plain(value.shape[place]))], term)

    grains = [plain(n) if k == place else g for k, (n, g) in enumerate(zip(value.shape, value.grains, strict=True))]
    return Value(value.shape, at, tuple(grains))


def reduced(form: Forming, value: Value, axes: Sequence[int], reduction: type[Expr]) -> Value:
    """Return a reduction along axes, which keep length 1."""
    no_infinity(value)
    entries = form.settle(as_real(value))

    def at(i: Indices) -> Expr:
        """Return the reduction."""
        digits: list[Expr] = []
        places = dict(enumerate(i))
        for k in axes:
            own, places[k] = form.axis_indices(entries.shape[k], entries.grains[k], batch=False)
            digits += own
        return reduction(entries.at(tuple(places[k] for k in range(len(i)))), *digits)

    shape = tuple(ONE if k in axes else n for k, n in enumerate(entries.shape))
    return Value(shape, at, tuple(plain(ONE) if k in axes else g for k, g in enumerate(entries.grains)))


@rule("amax", "max")
def largest(form: Forming, self: Value, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """The largest entry along axes, without its place."""
    if other is not None:
        return pointwise(sympy.Max, form.settle(self), form.settle(other))
    axes = axes_of(dim, len(self.shape))
    found = reduced(form, self, axes, Largest)
    found = found if keepdim else without(found, axes)
    return found if not form.shape or not isinstance(form.shape[0], tuple) else (found, None)


@rule("amin", "min")
def smallest(form: Forming, self: Value, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
    """The smallest entry along axes, without its place."""
    if other is not None:
        return pointwise(sympy.Min, form.settle(self), form.settle(other))
    axes = axes_of(dim, len(self.shape))
    found = reduced(form, pointwise(lambda a: -a, self), axes, Largest)
    found = pointwise(lambda a: -a, found if keepdim else without(found, axes))
    return found if not form.shape or not isinstance(form.shape[0], tuple) else (found, None)


@rule("prod")
def prod(form: Forming, self: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """The product along axes."""
    axes = axes_of(dim, len(self.shape))
    found = reduced(form, self, axes, Product)
    return found if keepdim else without(found, axes)


@rule("argmax", "argmin", "topk", "sort", "median", "cumprod", "argsort", "kthvalue", "mode")
def ordered(form: Forming, self: Value, **settings: Any) -> Value:
    """Sorting and places of extremes are refused: they depend on values."""
    raise refuse("the order of entries depends on their values", "use a softmax, or masks that depend on places")
