"""Schedule a map of a convolution: which instructions torch executes, and which one kernel fuses per position.

    pointwise   xW = x * W                               torch: convolutions, their gradients, sums over samples
    pixels      xx = sum over c of x**2                  a kernel over the positions of the input
    positions   E = box of xx,  f = .. E ..,  z = f h    a kernel over the positions of the output

A kernel works at one position: it computes numbers per position, sums along channels, and entries of channels. It may
begin with a sum over patches of a map with one number per position, or with the transpose of such a sum. Except for
these sums, a position is like a row (``codegen.schedule.row_loops``), so its instructions are written with the batch
index in place of batch, group and space. The caller passes three settings:

    floor             sums of squares below it count as zero
    LEFTOVER          a sum of squares computed as a difference counts as zero below this share of the minuend
    patch_entries     the number of entries of a patch
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, Symbol

from codegen.ir.program import Contract, Convolve, Instruction, Pointwise, Program, Value, name_of
from codegen.schedule.row_loops import RowKernel, row_kernel
from codegen.schedule.rows import Rows
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH

LONG, POSITION = "long", "position"
floor, leftover, patch_entries = (Symbol(name, positive=True) for name in ("floor", "LEFTOVER", "patch_entries"))


@dataclass(frozen=True)
class Tap:
    """A number per position: the sum of ``operand`` over a patch, or with ``box`` unset the transpose of such a sum."""

    target: str
    operand: str
    box: bool
    equation: str


@dataclass(frozen=True)
class Positions:
    """One kernel: its work as a row kernel, the sums over patches before it, and the values that it writes.

    ``place`` is the space over whose positions it runs, ``scalars`` the settings that it may read. ``like`` is a tensor
    of that space with channels, and ``outputs`` are the values that it writes, with their own axes.
    """

    place: str
    kernel: RowKernel
    scalars: tuple[Symbol, ...]
    taps: tuple[Tap, ...]
    like: str
    outputs: tuple[Value, ...]
    equations: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the tensors that the kernel reads at its own position."""
        made = {tap.target for tap in self.taps}
        return tuple(v.name for v in self.kernel.reads if v.name not in made)

    @property
    def wide(self) -> frozenset[str]:
        """The names of the tensors with channels that the kernel reads or writes."""
        return frozenset(v.name for v in (*self.kernel.reads, *self.kernel.writes) if len(v.indices) == 2)


@dataclass(frozen=True)
class ByTorch:
    """Instructions that torch executes."""

    instructions: tuple[Instruction, ...]


Step = Positions | ByTorch


def steps(program: Program, squares: Iterable[str] = ()) -> tuple[Step, ...]:
    """Return the steps that execute a program, in order; raise ``UsageError`` for an instruction without a kernel.

    Values named in ``squares`` that are differences are sums of squares; they become zero where only rounding error
    is left.
    """
    return _Scheduler(program, frozenset(squares)).steps()


class _Scheduler:
    """Schedules torch's instructions as early as possible, and the rest in as few kernels as possible."""

    def __init__(self, program: Program, squares: frozenset[str]) -> None:
        self._program, self._squares = program, squares
        links = [link for i in program.instructions if isinstance(i, Convolve) for link in i.links]
        self._sizes = {place: {getattr(link, place).size for link in links} for place in (LONG, POSITION)}
        self._kernels = {link.kernel.size for link in links}
        self._known = {v.name for v in program.inputs}
        self._left = list(program.instructions)
        source = next(v for v in program.values.values() if v.name == "x")
        self._first = self._place(source.indices) or LONG  # the space of the layer's input
        self._lengths = {*self._kernels, *(i.size for i in self._features(source.indices)[1:])}

    def steps(self) -> tuple[Step, ...]:
        """Return the steps in order; raise UsageError for an instruction that no kernel computes."""
        found: list[Step] = []
        while self._left:
            step = self._by_torch() or self._positions(self._first) or self._positions(self._second)
            if step is None:
                raise UsageError(f"{self._program.name!r}: no kernel computes {self._left[0].target.name!r}")
            found.append(step)
        return tuple(found)

    @property
    def _second(self) -> str:
        return POSITION if self._first == LONG else LONG

    def _place(self, indices: Iterable[Index]) -> str | None:
        """Return the space of a value; None for a value without space, or a filter."""
        sizes = {i.size for i in indices}
        return next((p for p in (LONG, POSITION) if sizes & self._sizes[p]), None)

    def _by_torch(self) -> ByTorch | None:
        chosen: list[Instruction] = []
        while ready := [i for i in self._left if not self._is_local(i) and self._is_ready(i)]:
            chosen += self._taken(ready)
        return ByTorch(tuple(chosen)) if chosen else None

    def _is_ready(self, instruction: Instruction) -> bool:
        return {name_of(e) for e in instruction.reads} <= self._known

    def _taken(self, chosen: Sequence[Instruction]) -> Sequence[Instruction]:
        self._left = [i for i in self._left if i not in chosen]
        self._known |= {i.target.name for i in chosen}
        return chosen

    def _is_local(self, instruction: Instruction) -> bool:
        """Whether an instruction works at one position; this includes sums over patches of one number per position."""
        target = instruction.target.indices
        if BATCH not in target or self._place(target) is None:
            return False
        if isinstance(instruction, Convolve):
            return len(instruction.operands) == 1 and self._channel(target) is None
        return isinstance(instruction, Pointwise | Contract)

    def _channel(self, indices: Sequence[Index]) -> Index | None:
        """Return the axis of channels: the second axis that is neither batch nor space."""
        features = self._features(indices)
        return features[1] if len(features) > 1 else None

    def _features(self, indices: Sequence[Index]) -> list[Index]:
        space = self._kernels | self._sizes[LONG] | self._sizes[POSITION]
        return [i for i in indices if i.size not in space and i != BATCH]

    def _positions(self, place: str) -> Positions | None:
        inside: list[Instruction] = []
        for instruction in self._left:
            here = self._is_local(instruction) and self._place(instruction.target.indices) == place
            near = set() if isinstance(instruction, Convolve) else {i.target.name for i in inside}
            if here and {name_of(e) for e in instruction.reads} <= self._known | near:
                inside.append(instruction)
        return self._kernel(place, self._taken(inside)) if inside else None

    def _kernel(self, place: str, inside: Sequence[Instruction]) -> Positions:
        names = [i.target.name for i in inside]
        later = {name_of(e) for i in self._left for e in i.reads} | set(self._program.outputs)
        outputs = tuple(i.target for i in inside if i.target.name in later)
        taps = tuple(self._tap(i) for i in inside if isinstance(i, Convolve))
        read = {name_of(e) for i in inside if not isinstance(i, Convolve) for e in i.reads} - set(names)
        given = [self._program.values[n] for n in self._program.values if n in read]
        rows = [part for i in inside if not isinstance(i, Convolve) for part in self._flat(i)]
        whole = Program(
            self._program.name,
            tuple(self._flat_value(v) for v in (*given, *(i.target for i in inside if isinstance(i, Convolve)))),
            (*self._program.scalars, floor, leftover, patch_entries),
            tuple(rows),
            tuple(v.name for v in outputs),
        )
        like = next(
            (v.name for v in given if self._place(v.indices) == place and self._channel(v.indices) is not None), None
        )
        if like is None:
            raise UsageError(f"{self._program.name!r}: the kernel of {names[0]!r} reads no tensor with channels")
        kernel = row_kernel(whole, Rows(whole.instructions, whole.outputs))  # type: ignore[arg-type]
        equations = tuple(i.equation for i in inside if i.equation and i.target in outputs)
        return Positions(place, kernel, whole.scalars, taps, like, outputs, equations)

    def _tap(self, instruction: Convolve) -> Tap:
        operand = instruction.operands[0]
        return Tap(
            instruction.target.name, name_of(operand), self._place(operand.indices) == LONG, instruction.equation
        )

    def _flat_value(self, value: Value) -> Value:
        return Value(value.name, self._flat_indices(value.indices))

    def _flat_indices(self, indices: Sequence[Index]) -> tuple[Index, ...]:
        """Return the batch index for batch, group and space, then the axis of channels; a bias has only the latter."""
        channel = self._channel(indices) or (indices[-1] if BATCH not in indices else None)
        return (BATCH,) if channel is None else (BATCH, Index("k", channel.size))

    def _flat(self, instruction: Instruction) -> list[Pointwise | Contract]:
        target = self._flat_value(instruction.target)
        if isinstance(instruction, Pointwise):
            flat = {e: e.base[self._flat_indices(e.indices)] for e in instruction.reads}
            expression = self._counted(instruction.expression).xreplace(flat)
            if target.name in self._squares and _negative(expression):
                return _difference(target, expression, instruction.equation)
            return [Pointwise(target, expression, instruction.equation)]
        assert isinstance(instruction, Contract)
        operands = tuple(o.base[self._flat_indices(o.indices)] for o in instruction.operands)
        (over,) = {i for o in operands for i in o.indices} - {BATCH}
        if len(operands) < 2 or operands[0] != operands[1]:
            return [Contract(target, operands, (over,), instruction.equation)]
        total = Value(f"{target.name}_total", target.indices)
        kept = sympy.Piecewise((sympy.S.Zero, sympy.Lt(total.entry, floor)), (total.entry, True))
        return [Contract(total, operands, (over,)), Pointwise(target, kept, instruction.equation)]

    def _counted(self, expression: Expr) -> Expr:
        """Replace the product of a patch's lengths by one number; raise ``UsageError`` if a single length remains."""
        if not expression.free_symbols & self._lengths:
            return expression
        first, *others = sorted(self._lengths, key=str)
        counted = expression.xreplace({first: patch_entries / sympy.Mul(*others)})
        if counted.free_symbols & self._lengths:
            raise UsageError(f"{self._program.name!r}: {expression} needs more than the number of entries of a patch")
        return counted


def _negative(expression: Expr) -> list[Expr]:
    return [t for t in sympy.Add.make_args(expression) if t.could_extract_minus_sign()]


def _difference(target: Value, expression: Expr, equation: str) -> list[Pointwise | Contract]:
    """Return the instructions of a difference that is set to zero where it may be only rounding error."""
    negative = sympy.Add(*_negative(expression))
    total, rest = (Value(f"{target.name}_{word}", target.indices) for word in ("total", "rest"))
    kept = sympy.Piecewise((sympy.S.Zero, sympy.Le(rest.entry, leftover * total.entry)), (rest.entry, True))
    return [
        Pointwise(total, expression - negative),
        Pointwise(rest, total.entry + negative),
        Pointwise(target, kept, equation),
    ]


def with_scale(scale: Program, forward: Program, *kept: str) -> Program:
    """Return the program of the output, the scale and other kept values; shared instructions are not repeated."""
    known = {i.target.name for i in scale.instructions}
    return replace(
        forward,
        inputs=tuple(v for v in forward.inputs if v.name not in scale.outputs),
        scalars=tuple(dict.fromkeys((*scale.scalars, *forward.scalars))),
        instructions=(*scale.instructions, *(i for i in forward.instructions if i.target.name not in known)),
        outputs=(*forward.outputs, *scale.outputs, *kept),
    )
