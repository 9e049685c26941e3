"""Evaluate derived expressions on float64 arrays, directly by their definition.

This shares no code with the code generator, because generated layers are compared with it. Every free and bound index
becomes an axis of a NumPy array; nothing is rewritten or optimised, so it suits small sizes only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Symbol

from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.named import Named, spelled_out
from derive.algebra.nodes import AtMost, Binder, Divides, IndexedSum, Within
from derive.algebra.reductions import Attains, Largest, LogSumExp, Masked, Product, Softmax, Stopped
from derive.forward_map import Definition

Array = np.ndarray[Any, np.dtype[Any]]

_FUNCTIONS: dict[type[Expr], Callable[..., Any]] = {
    sympy.exp: np.exp,
    sympy.log: np.log,
    sympy.tanh: np.tanh,
    sympy.sin: np.sin,
    sympy.cos: np.cos,
    sympy.atan: np.arctan,
    sympy.Abs: np.abs,
    sympy.sign: np.sign,
    sympy.Heaviside: lambda a, half: np.heaviside(a, half),
    sympy.Max: lambda *a: functools.reduce(np.maximum, a),
    sympy.Min: lambda *a: functools.reduce(np.minimum, a),
    sympy.erf: np.vectorize(math.erf),
    Stopped: lambda a: a,
    Quotient: np.floor_divide,
    Remainder: np.mod,
    Softmax: lambda a, whole: np.exp(a - whole),
    Masked: lambda a, mask: np.where(mask != 0, a, -np.inf),
    Attains: lambda a, largest: np.isclose(a, largest, rtol=1e-12, atol=0).astype(float),
}
_REDUCTIONS: dict[type[Expr], Callable[..., Any]] = {
    IndexedSum: np.sum,
    Largest: np.max,
    Product: np.prod,
    LogSumExp: lambda a, axis: np.log(np.sum(np.exp(a), axis=axis)),
}


@dataclass(frozen=True)
class Point:
    """A point at which to evaluate: arrays by tensor name, numbers by symbol name, definitions of intermediates.

    The arrays must not change: the values of intermediates and the lengths of axes are cached.
    """

    tensors: Mapping[str, Array]
    scalars: Mapping[str, float]
    scope: Mapping[str, Definition]
    sizes: Mapping[str, int]
    _intermediates: dict[str, Array] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lengths: dict[Expr, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def size(self, index: Index) -> int:
        """Return the length of an index's axis."""
        length = index.size
        if length not in self._lengths:
            self._lengths[length] = int(length.subs({s: self.sizes[s.name] for s in length.free_symbols}))
        return self._lengths[length]

    def tensor(self, name: str) -> Array:
        """Return the named tensor, or the value of the named intermediate."""
        if name in self.tensors:
            return self.tensors[name]
        if name not in self._intermediates:
            definition = self.scope[name]
            self._intermediates[name] = evaluate(definition.expression, definition.indices, self)
        return self._intermediates[name]


def evaluate(expression: Expr, axes: tuple[Index, ...], point: Point) -> Array:
    """Return the expression for all values of the indices ``axes``, as an array with these axes in order."""
    shape = tuple(point.size(index) for index in axes)
    return np.broadcast_to(_value(expression, axes, point), shape).copy()


def _value(expression: Expr, axes: tuple[Index, ...], point: Point) -> Array:
    """Return the expression as an array that broadcasts against the shape of ``axes``."""
    arguments = [_value(a, axes, point) for a in _operands(expression)]
    match expression:
        case Index():
            return _grid(axes.index(expression), axes, point)
        case sympy.Number() | sympy.NumberSymbol():
            return np.asarray(float(expression))
        case Symbol():
            return np.asarray({**point.sizes, **point.scalars}[expression.name])
        case Add():
            return np.asarray(sum(arguments))
        case Mul():
            return np.asarray(np.prod(np.broadcast_arrays(*arguments), axis=0))
        case Pow():
            return np.asarray(arguments[0] ** arguments[1])
        case Named():
            return _value(spelled_out(expression), axes, point)
        case Binder():
            # rename a bound index that is already an axis, to avoid capture
            taken = set(axes) & set(expression.bound)
            body, bound = expression.renamed() if taken else (expression.body, expression.bound)
            inner = (*axes, *bound)
            summand = evaluate(body, inner, point)
            return np.asarray(_REDUCTIONS[type(expression)](summand, axis=tuple(range(len(axes), len(inner)))))
        case Indexed():
            return _entry(expression, arguments, point)
        case KroneckerDelta():
            return np.asarray(arguments[0] == arguments[1], dtype=float)
        case Within():
            return np.asarray((arguments[0] >= 0) & (arguments[0] < arguments[1]), dtype=float)
        case AtMost():
            return np.asarray(arguments[0] <= arguments[1], dtype=float)
        case Divides():
            return np.asarray(arguments[1] % arguments[0] == 0, dtype=float)
    if type(expression) in _FUNCTIONS:
        return np.asarray(_FUNCTIONS[type(expression)](*arguments))
    raise TypeError(f"no rule to evaluate {type(expression).__name__} on arrays: {expression}")


def _operands(expression: Expr) -> tuple[Expr, ...]:
    """Return the operands, which are evaluated on the same axes as the expression."""
    if isinstance(expression, Indexed):
        return tuple(expression.indices)
    return () if isinstance(expression, Binder | Named) else tuple(expression.args)


def _grid(position: int, axes: tuple[Index, ...], point: Point) -> Array:
    """Return the values of one index along its axis."""
    shape = [1] * len(axes)
    shape[position] = point.size(axes[position])
    return np.arange(shape[position]).reshape(shape)


def _entry(expression: Indexed, indices: list[Array], point: Point) -> Array:
    """Return the entries of a tensor or an intermediate at the given index arrays.

    Positions outside the tensor are clipped into it; the guard that multiplies such an entry is 0.
    """
    array = point.tensor(str(expression.base.label))
    positions = [np.clip(i.astype(int), 0, length - 1) for i, length in zip(indices, array.shape, strict=True)]
    return np.asarray(array[tuple(positions)])
