"""Reference interpreter of gathers, scatters and masks: NumPy, by index arithmetic over all positions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import sympy
from numpy.typing import NDArray
from sympy import Expr, Indexed, KroneckerDelta

from codegen.ir.program import Gather, Mask, Placed, Scatter, name_of
from derive.algebra.index import Index, Quotient, Remainder
from derive.algebra.nodes import AtMost, Divides, Within

Array = NDArray[Any]


def placed(
    instruction: Placed, values: Mapping[str, Array], numbers: Mapping[str, float], shape: tuple[int, ...]
) -> Array:
    """Return the value of a gather, scatter or mask whose target has this shape."""
    if isinstance(instruction, Mask):
        grid = _Grid(instruction.target.indices, shape, values, numbers)
        held = [grid.holds(guard) for guard in instruction.guards]
        return numpy.asarray(numpy.broadcast_to(numpy.logical_and.reduce(held), shape), dtype=numpy.float64)
    operand = values[name_of(instruction.operand)]
    if isinstance(instruction, Gather):
        grid = _Grid(instruction.target.indices, shape, values, numbers)
        places, inside = grid.places(instruction.positions, operand.shape, shape)
        return numpy.where(inside, operand[places], 0.0)
    assert isinstance(instruction, Scatter)
    grid = _Grid(instruction.operand.indices, operand.shape, values, numbers)
    places, inside = grid.places(instruction.positions, shape, operand.shape)
    total = numpy.zeros(shape)
    numpy.add.at(total, places, numpy.where(inside, operand, 0.0))
    return total


_OPERATIONS: dict[type[Expr], Callable[..., Any]] = {
    Quotient: numpy.floor_divide,
    Remainder: numpy.mod,
    sympy.Abs: numpy.abs,
    sympy.Max: lambda *parts: functools.reduce(numpy.maximum, parts),
    sympy.Min: lambda *parts: functools.reduce(numpy.minimum, parts),
}


class _Grid:
    """Index expressions over all positions of a tensor at once."""

    def __init__(
        self,
        indices: tuple[Expr, ...],
        shape: tuple[int, ...],
        values: Mapping[str, Array],
        numbers: Mapping[str, float],
    ) -> None:
        counts = numpy.ogrid[tuple(slice(n) for n in shape)]
        self._counts = dict(zip(indices, counts, strict=True))
        self._values, self._numbers = values, numbers

    def places(
        self, positions: tuple[Expr, ...], lengths: tuple[int, ...], shape: tuple[int, ...]
    ) -> tuple[tuple[Array, ...], Array]:
        """Return the positions on every axis, clipped to it, and a mask of those that were integers inside it."""
        found, inside = [], numpy.ones(shape, dtype=bool)
        for position, length in zip(positions, lengths, strict=True):
            exact = numpy.broadcast_to(self.number(position), shape)
            inside &= (exact == numpy.round(exact)) & (exact >= 0) & (exact < length)
            found.append(numpy.clip(numpy.floor(exact), 0, length - 1).astype(numpy.int64))
        return tuple(found), inside

    def holds(self, guard: Expr) -> Array:
        """Return a mask: where a guard holds."""
        first, second = (self.number(a) for a in guard.args)
        if isinstance(guard, KroneckerDelta):
            return numpy.asarray(first == second)
        if isinstance(guard, Divides):
            return numpy.asarray(second % first == 0)
        if isinstance(guard, AtMost):
            return numpy.asarray(first <= second)
        assert isinstance(guard, Within)
        return numpy.asarray((first == numpy.round(first)) & (first >= 0) & (first < second))

    def number(self, expression: Expr) -> Any:
        """Return the value of an index expression over the whole grid."""
        if isinstance(expression, Index):
            return self._counts[expression]
        if isinstance(expression, Indexed):
            return self._values[name_of(expression)][tuple(self._counts[i] for i in expression.indices)]
        if expression.is_Symbol:
            return self._numbers[expression.name]
        if expression.is_number:
            return float(expression)
        parts = [self.number(a) for a in expression.args]
        if expression.is_Add:
            return sum(parts[1:], start=parts[0])
        if expression.is_Pow:
            return parts[0] ** parts[1]
        if type(expression) in _OPERATIONS:
            return _OPERATIONS[type(expression)](*parts)
        assert expression.is_Mul
        total = parts[0]
        for part in parts[1:]:
            total = total * part
        return total
