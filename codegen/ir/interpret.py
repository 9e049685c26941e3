"""Reference interpreter of programs: NumPy in float64, one instruction at a time.

Simple rather than fast: tests compare every target's code with it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import sympy
from numpy.typing import NDArray
from sympy import Expr, Indexed

from codegen.ir.interpret_positions import placed
from codegen.ir.link import Link
from codegen.ir.program import (
    Contract,
    Convolve,
    Instruction,
    Magnitude,
    Peak,
    Placed,
    Pointwise,
    Program,
    ProgramError,
    name_of,
)
from derive.algebra.index import Index
from derive.algebra.named import sigmoid
from derive.algebra.reductions import Stopped

Array = NDArray[Any]

_FUNCTIONS: dict[type[Any], Callable[..., Any]] = {
    sympy.exp: numpy.exp,
    sympy.log: numpy.log,
    sympy.tanh: numpy.tanh,
    sympy.sin: numpy.sin,
    sympy.cos: numpy.cos,
    sympy.Abs: numpy.abs,
    sympy.sign: numpy.sign,
    sympy.atan: numpy.arctan,
    sympy.Heaviside: lambda a, at_zero: numpy.heaviside(a, at_zero),
    sympy.Max: lambda *a: numpy.maximum.reduce(numpy.broadcast_arrays(*a)),
    Stopped: lambda a: a,
    sympy.erf: numpy.vectorize(math.erf),
    sigmoid: lambda a: 1 / (1 + numpy.exp(-a)),
    sympy.Min: lambda *a: numpy.minimum.reduce(numpy.broadcast_arrays(*a)),
}

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def interpret(
    program: Program, inputs: Mapping[str, Any], scalars: Mapping[str, float], sizes: Mapping[str, int]
) -> dict[str, Array]:
    """Return the outputs by name.

    ``inputs`` holds one array per input, its axes in the order of the declared indices; ``sizes`` holds every axis
    length and every stride, dilation and padding. Raises ``ProgramError`` for a missing input or one whose shape does
    not fit.
    """
    values: dict[str, Array] = {}
    for value in program.inputs:
        if value.name not in inputs:
            raise ProgramError(f"program {program.name!r}: input {value.name!r} is missing")
        values[value.name] = _fitting(value.name, inputs[value.name], [_length(i, sizes) for i in value.indices])
    numbers = {**{str(k): float(v) for k, v in scalars.items()}, **{str(k): float(v) for k, v in sizes.items()}}
    for instruction in program.instructions:
        shape = tuple(_length(i, sizes) for i in instruction.target.indices)
        with numpy.errstate(divide="ignore", invalid="ignore", over="ignore"):
            values[instruction.target.name] = _run(instruction, values, numbers, shape)
    return {name: values[name] for name in program.outputs}


def _length(index: Index, sizes: Mapping[str, int]) -> int:
    return int(index.size.xreplace({s: sympy.Integer(sizes[s.name]) for s in index.size.free_symbols}))


def _fitting(name: str, array: Any, shape: list[int]) -> Array:
    converted = numpy.asarray(array, dtype=numpy.float64)
    if list(converted.shape) != shape:
        raise ProgramError(f"input {name!r} has shape {converted.shape}, expected {tuple(shape)}")
    return converted


def _run(
    instruction: Instruction, values: Mapping[str, Array], numbers: Mapping[str, float], shape: tuple[int, ...]
) -> Array:
    indices = instruction.target.indices
    if isinstance(instruction, Contract | Convolve):
        letters = {index: k for k, index in enumerate((*indices, *instruction.summed))}
        arguments: list[Any] = []
        for operand in instruction.operands:
            arguments += [values[name_of(operand)], [letters[i] for i in operand.indices]]
        for link in instruction.links if isinstance(instruction, Convolve) else ():
            arguments += [_meetings(link, numbers), [letters[i] for i in link.indices]]
        return numpy.asarray(numpy.einsum(*arguments, [letters[i] for i in indices]))
    if isinstance(instruction, Placed):
        return placed(instruction, values, numbers, shape)
    if isinstance(instruction, Magnitude | Peak):
        axes = tuple(k for k, i in enumerate(instruction.operand.indices) if i in instruction.summed)
    if isinstance(instruction, Peak):
        left = tuple(i for i in instruction.operand.indices if i not in instruction.summed)
        return _aligned(values[name_of(instruction.operand)].max(axis=axes), left, indices)
    if isinstance(instruction, Magnitude):
        size = numpy.abs(values[name_of(instruction.operand)]).sum(axis=axes)
        return numpy.asarray(numpy.maximum(size, numpy.finfo(numpy.float64).tiny ** 0.5))
    assert isinstance(instruction, Pointwise)
    result = evaluate(instruction.expression, lambda e: _aligned(values[name_of(e)], e.indices, indices), numbers)
    return numpy.asarray(numpy.broadcast_to(result, shape))


def _meetings(link: Link, numbers: Mapping[str, float]) -> Array:
    """Return the tensor of a link: 1 where its three indices satisfy the relation, 0 elsewhere."""
    lengths = {symbol: int(numbers[symbol.name]) for i in link.indices for symbol in i.size.free_symbols}
    steps = (link.stride, link.dilation, link.padding)
    lengths |= {symbol: int(numbers[symbol.name]) for step in steps for symbol in step.free_symbols}
    stride, dilation, padding = (int(step.xreplace(lengths)) for step in steps)
    long, position, kernel = numpy.ogrid[tuple(slice(int(i.size.xreplace(lengths))) for i in link.indices)]
    return numpy.asarray(long == stride * position + dilation * kernel - padding, dtype=numpy.float64)


def _aligned(array: Array, own: tuple[Index, ...], target: tuple[Index, ...]) -> Array:
    """Return the array with its axes in the order of ``target``; axes that it lacks have length 1."""
    present = [i for i in target if i in own]
    moved = numpy.transpose(array, [own.index(i) for i in present])
    return moved[tuple(slice(None) if i in own else None for i in target)]


def evaluate(expression: Expr, entry: Callable[[Indexed], Any], numbers: Mapping[str, float]) -> Any:
    """Return the value of a scalar expression; ``entry`` gives its tensor entries, ``numbers`` its symbols by name."""

    def walk(part: Expr) -> Any:
        """Return the value of a part."""
        if isinstance(part, Indexed):
            return entry(part)
        if part.is_Symbol:
            return numbers[part.name]
        if part.is_number:
            return float(part)
        if isinstance(part, sympy.Piecewise):
            return _piecewise(part, walk)
        arguments = [walk(a) for a in part.args]
        if part.is_Add:
            return sum(arguments[1:], start=arguments[0])
        if part.is_Mul:
            return numpy.prod(numpy.broadcast_arrays(*arguments), axis=0)
        if part.is_Pow:
            return numpy.power(*arguments)
        if type(part) in _FUNCTIONS:
            return _FUNCTIONS[type(part)](*arguments)
        raise ProgramError(f"the interpreter has no rule for {type(part).__name__} in {expression}")

    return walk(expression)


def _piecewise(part: sympy.Piecewise, walk: Callable[[Expr], Any]) -> Any:
    """``Piecewise((a, Eq(u, v)), (b, True))``: conditions compare two scalars."""
    result = walk(part.args[-1].expr)
    for value, condition in reversed(part.args[:-1]):
        holds = _COMPARISONS[condition.rel_op](walk(condition.lhs), walk(condition.rhs))
        result = numpy.where(holds, walk(value), result)
    return result
