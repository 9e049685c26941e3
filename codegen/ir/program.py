"""The one intermediate representation: a small typed tensor program in single-assignment form.

A value is a named tensor with one ``Index`` per axis. An index is an object that knows its size, so two axes agree
exactly if their indices do, and no index can be captured. The instructions:

    Contract     target[i..] = sum over the summed indices of a product of entries
    Convolve     the same, restricted by links between input, output and filter along axes of space
    Pointwise    target[i..] = a SymPy expression of entries, each broadcast along the indices that it lacks
    Magnitude    target[i..] = a positive number comparable with the entries of a row, to divide by before squaring
    Peak         target[i..] = the largest entry of a row, to subtract before exponentials; derivatives ignore it
    Gather       target[i..] = the entry at positions that are index arithmetic or look-ups, zero outside the tensor
    Scatter      the transpose of a gather: adds entries at their positions
    Mask         target[i..] = 1 where conditions on the indices hold, 0 elsewhere

Not supported: tensors without an axis. Only a gather reads a diagonal (one index twice in an entry).
"""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from sympy import Expr, Indexed, Mul, Symbol

from codegen.ir.link import Link
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, tensor


class ProgramError(ValueError):
    """A program breaks a rule of the representation: a bug in the pass that built it; the message names the program."""


@dataclass(frozen=True)
class Value:
    """A tensor: its name, and one index per axis in order."""

    name: str
    indices: tuple[Index, ...]

    @property
    def entry(self) -> Indexed:
        """The entry at the value's own indices."""
        return tensor(self.name)[self.indices]

    def at(self, indices: Iterable[Index]) -> Indexed:
        """Return the entry at other indices."""
        return tensor(self.name)[tuple(indices)]


@dataclass(frozen=True)
class Contract:
    """``target = sum over summed of operand * operand * ...``; every summed index occurs in an operand."""

    target: Value
    operands: tuple[Indexed, ...]
    summed: tuple[Index, ...]
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read."""
        return self.operands

    @property
    def meaning(self) -> Expr:
        """The instruction as an indexed sum."""
        return IndexedSum(Mul(*self.operands), *self.summed)


@dataclass(frozen=True)
class Convolve:
    """``target = sum over summed of operand * operand * ...`` over the indices for which every link holds.

    It is a convolution, a transposed one, the gradient of a filter, or (with one operand) a sum over patches, depending
    on which of a link's indices the target and the operands have.
    """

    target: Value
    operands: tuple[Indexed, ...]
    summed: tuple[Index, ...]
    links: tuple[Link, ...]
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read."""
        return self.operands

    @property
    def meaning(self) -> Expr:
        """The instruction as an indexed sum."""
        return IndexedSum(Mul(*self.operands, *(link.delta for link in self.links)), *self.summed)


@dataclass(frozen=True)
class Pointwise:
    """``target = expression``, entry by entry."""

    target: Value
    expression: Expr
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read, in the order of their names."""
        return entries(self.expression)

    @property
    def meaning(self) -> Expr:
        """The expression."""
        return self.expression


@dataclass(frozen=True)
class Magnitude:
    """``target`` = a positive number about as large as the operand along the summed indices; derivatives ignore it.

    Each target may choose another number, but its square must not underflow; results must be invariant to the choice.
    """

    target: Value
    operand: Indexed
    summed: tuple[Index, ...]
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read."""
        return (self.operand,)


@dataclass(frozen=True)
class Peak:
    """``target`` = the largest entry of the operand along the summed indices; derivatives ignore it.

    Results must be invariant to it, as to a shift of exponentials, or get its derivative from entries that attain it.
    """

    target: Value
    operand: Indexed
    summed: tuple[Index, ...]
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read."""
        return (self.operand,)


@dataclass(frozen=True)
class Gather:
    """``target = source[positions]``, one position per axis of the source; zero where a position lies outside.

    A position is an index expression in the target's indices, axis lengths and entries of integer tensors; one that is
    not an integer lies outside. ``operand`` is the source at indices of its own. Without ``filled`` the value outside
    is unspecified.
    """

    target: Value
    operand: Indexed
    positions: tuple[Expr, ...]
    filled: bool = True
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read: the source, and integers inside positions."""
        return (self.operand, *_inside(self.positions))


@dataclass(frozen=True)
class Scatter:
    """``target[positions] += operand`` over all indices of the operand: the transpose of a gather."""

    target: Value
    operand: Indexed
    positions: tuple[Expr, ...]
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The entries read: the operand, and integers inside positions."""
        return (self.operand, *_inside(self.positions))


@dataclass(frozen=True)
class Mask:
    """``target`` = the product of guards (``Within``, ``AtMost``, ``KroneckerDelta`` ..) of index expressions."""

    target: Value
    guards: tuple[Expr, ...]
    equation: str = ""

    @property
    def reads(self) -> tuple[Indexed, ...]:
        """The integer entries that the guards mention."""
        return _inside(self.guards)


Placed = Gather | Scatter | Mask
Instruction = Contract | Convolve | Pointwise | Magnitude | Peak | Placed


@dataclass(frozen=True)
class Program:
    """Declared inputs, scalar settings, instructions in order, and the names of the results."""

    name: str
    inputs: tuple[Value, ...]
    scalars: tuple[Symbol, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check every rule of the representation; raise ``ProgramError`` if one is broken."""
        known: dict[str, Value] = {}
        for value in self.inputs:
            _declare(self.name, value, known)
        for instruction in self.instructions:
            _check_reads(self.name, instruction, known)
            _check_indices(self.name, instruction, self.scalars)
            _declare(self.name, instruction.target, known)
        missing = [name for name in self.outputs if name not in known]
        if missing:
            raise ProgramError(f"program {self.name!r}: output {missing[0]!r} is never assigned")

    @property
    def values(self) -> dict[str, Value]:
        """Every value by its name."""
        return {v.name: v for v in (*self.inputs, *(i.target for i in self.instructions))}

    @property
    def producers(self) -> dict[str, Instruction]:
        """The instruction that assigns each value that is not an input."""
        return {i.target.name: i for i in self.instructions}

    def needed_for(self, outputs: Iterable[str]) -> tuple[Instruction, ...]:
        """Return the instructions that the named values depend on, in order."""
        wanted = set(outputs)
        kept: list[Instruction] = []
        for instruction in reversed(self.instructions):
            if instruction.target.name in wanted:
                kept.append(instruction)
                wanted |= {name_of(entry) for entry in instruction.reads}
        return tuple(reversed(kept))

    def restricted(self, name: str, outputs: tuple[str, ...]) -> Program:
        """Return the program that computes only the named values, from the inputs that they use."""
        kept = self.needed_for(outputs)
        used = {name_of(e) for i in kept for e in i.reads} | set(outputs)
        free = set().union(*(i.expression.free_symbols for i in kept if isinstance(i, Pointwise)))
        return replace(
            self,
            name=name,
            inputs=tuple(v for v in self.inputs if v.name in used),
            scalars=tuple(s for s in self.scalars if s in free),
            instructions=kept,
            outputs=outputs,
        )


def gradient_name(name: str) -> str:
    """Return the name of the gradient with respect to an input: ``dx`` for ``x``."""
    return f"d{name}"


def tangent_name(name: str) -> str:
    """Return the name of the tangent of a value: ``x_t`` for ``x``."""
    return f"{name}_t"


def name_of(entry: Indexed) -> str:
    """Return the name of the tensor that an entry belongs to."""
    return str(entry.base.name)


@lru_cache(maxsize=20_000)
def entries(expression: Expr) -> tuple[Indexed, ...]:
    """Return the tensor entries of an expression, sorted by their text."""
    return tuple(sorted(expression.atoms(Indexed), key=str))


def _inside(expressions: Iterable[Expr]) -> tuple[Indexed, ...]:
    """Return the integer entries of index expressions, sorted by their text."""
    return tuple(sorted({e for x in expressions for e in x.atoms(Indexed)}, key=str))


def _declare(program: str, value: Value, known: dict[str, Value]) -> None:
    if not value.name.isidentifier() or keyword.iskeyword(value.name):
        raise ProgramError(f"program {program!r}: {value.name!r} is not a name")
    if value.name in known:
        raise ProgramError(f"program {program!r}: {value.name!r} is assigned twice")
    if not value.indices or len(set(value.indices)) != len(value.indices):
        raise ProgramError(
            f"program {program!r}: {value.name!r} must have at least one axis, and a distinct index for each"
        )
    known[value.name] = value


def _check_reads(program: str, instruction: Instruction, known: Mapping[str, Value]) -> None:
    for entry in instruction.reads:
        value = known.get(name_of(entry))
        if value is None:
            raise ProgramError(f"program {program!r}: {entry} is read before it is assigned")
        if not all(isinstance(i, Index) for i in entry.indices) or len(set(entry.indices)) != len(entry.indices):
            raise ProgramError(f"program {program!r}: the indices of {entry} must be distinct plain indices")
        if [i.size for i in entry.indices] != [i.size for i in value.indices]:
            raise ProgramError(f"program {program!r}: {entry} does not fit the axes of {value.entry}")


def _check_indices(program: str, instruction: Instruction, scalars: tuple[Symbol, ...]) -> None:
    target = instruction.target
    read = {index for entry in instruction.reads for index in entry.indices}
    if isinstance(instruction, Pointwise):
        expected = set(target.indices)
        if instruction.expression.has(IndexedSum):
            raise ProgramError(f"program {program!r}: {target.name!r} is pointwise but its expression contains a sum")
        _check_symbols(program, instruction, scalars)
        if read - expected:
            raise ProgramError(f"program {program!r}: {target.name!r} reads along {read - expected}, which it lacks")
        return
    if isinstance(instruction, Placed):
        _check_positions(program, instruction)
        return
    if isinstance(instruction, Convolve):
        read |= {index for link in instruction.links for index in link.indices}
    if read != set(target.indices) | set(instruction.summed) or set(target.indices) & set(instruction.summed):
        raise ProgramError(f"program {program!r}: the indices of {target.name!r} and of what it reads do not match")


def _check_positions(program: str, instruction: Placed) -> None:
    """Check that positions and guards mention only the instruction's own indices."""
    expressions = instruction.guards if isinstance(instruction, Mask) else instruction.positions
    free = {i for e in expressions for i in e.atoms(Index)}
    own = instruction.operand.indices if isinstance(instruction, Scatter) else instruction.target.indices
    if free - set(own):
        raise ProgramError(f"program {program!r}: {instruction.target.name!r} has no axis for {free - set(own)}")
    if isinstance(instruction, Mask):
        return
    axes = (instruction.target if isinstance(instruction, Scatter) else instruction.operand).indices
    if len(axes) != len(instruction.positions):
        raise ProgramError(f"program {program!r}: {instruction.target.name!r} needs a position for each axis")


def _check_symbols(program: str, instruction: Pointwise, scalars: tuple[Symbol, ...]) -> None:
    """Check that every free symbol is a declared scalar or an axis length."""
    read = entries(instruction.expression)
    blank = instruction.expression.xreplace({entry: Symbol("_") for entry in read})
    sizes = {s for i in instruction.target.indices for s in i.size.free_symbols}
    for symbol in sorted(blank.free_symbols, key=str):
        integer_size = symbol.is_integer and not isinstance(symbol, Index)
        if symbol.name != "_" and symbol not in scalars and symbol not in sizes and not integer_size:
            raise ProgramError(f"program {program!r}: {instruction.target.name!r} uses {symbol}, which is not declared")
