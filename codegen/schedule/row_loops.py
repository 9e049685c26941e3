"""Split the instructions of a row kernel into a sequence of loops along the row.

A sum can be used only after its loop has ended. So each instruction has a level: the number of sums that must be
complete before it. Every loop belongs to one level and one axis. It loads entries, recomputes intermediate values in
registers, accumulates the sums of its level, and stores the results that are complete:

    level 1, along j    u = f x,  u_gW += u gW
                        c = f u_gW / kappa
    level 2, along j    u = f x,  dx = f gW - c u,  store dx
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from codegen.ir.program import Contract, Magnitude, Pointwise, Program, Value, name_of
from codegen.schedule.hoist import hoisted
from codegen.schedule.rows import Rows, RowWork, in_batch, is_wide_pointwise
from derive.algebra.index import Index


@dataclass(frozen=True)
class Loop:
    """One loop along a row: entries loaded, instructions in the loop, sums, stores, and scalars after it."""

    axis: Index
    loads: tuple[str, ...]
    pointwise: tuple[Pointwise, ...]
    sums: tuple[Contract | Magnitude, ...]
    stores: tuple[str, ...]
    after: tuple[Pointwise, ...]


@dataclass(frozen=True)
class RowKernel:
    """What a kernel reads and writes, the scalars known before its first loop, and its loops."""

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    before: tuple[Pointwise, ...]
    loops: tuple[Loop, ...]

    @property
    def instructions(self) -> tuple[RowWork, ...]:
        """Every instruction in printing order; some occur more than once."""
        inside = (i for loop in self.loops for i in (*loop.pointwise, *loop.sums, *loop.after))
        return (*self.before, *inside)

    @property
    def axes(self) -> tuple[Index, ...]:
        """One axis for each different length along which the kernel loops."""
        return tuple({loop.axis.size: loop.axis for loop in self.loops}.values())


def row_kernel(program: Program, rows: Rows) -> RowKernel:
    """Return the loops of one row kernel of a program."""
    return _Builder(program, rows).kernel()


def wide_axis(value: Value) -> Index | None:
    """Return the axis along which a value varies inside a row; None for a scalar of the row."""
    if len(value.indices) == 2:
        return value.indices[1]
    return None if in_batch(value.indices) else value.indices[0]


class _Builder:
    def __init__(self, program: Program, rows: Rows) -> None:
        self._program = program
        self._rows = rows
        self._instructions = hoisted(rows.instructions, program.values)
        self._made = {i.target.name: i for i in self._instructions}
        self._level: dict[str, int] = {}
        for instruction in self._instructions:
            below = max((self._level.get(name_of(e), 0) for e in instruction.reads), default=0)
            self._level[instruction.target.name] = below + (not isinstance(instruction, Pointwise))

    def kernel(self) -> RowKernel:
        """Return the kernel: what it reads and writes, and its loops in order."""
        loops = tuple(loop for level in range(1, max(self._level.values()) + 2) for loop in self._loops(level))
        names = {name_of(e) for i in self._instructions for e in i.reads} - self._made.keys()
        reads = tuple(v for v in self._program.values.values() if v.name in names)
        writes = tuple(self._made[name].target for name in self._rows.outputs)
        return RowKernel(reads, writes, self._scalars(0), loops)

    def _scalars(self, level: int) -> tuple[Pointwise, ...]:
        return tuple(
            i
            for i in self._instructions
            if isinstance(i, Pointwise) and not is_wide_pointwise(i) and self._level[i.target.name] == level
        )

    def _loops(self, level: int) -> Iterator[Loop]:
        """Yield the loops of a level, one per axis; the level's scalars follow the last loop."""
        sums = [i for i in self._instructions if self._ends(i, level) and not isinstance(i, Pointwise)]
        stores = [
            i
            for i in self._instructions
            if i.target.name in self._rows.outputs and is_wide_pointwise(i) and self._ends(i, level - 1)
        ]
        sizes = list(dict.fromkeys([_axis_of(i).size for i in (*sums, *stores)]))
        for size in sizes:
            here = [i for i in (*sums, *stores) if _axis_of(i).size == size]
            after = self._scalars(level) if size == sizes[-1] else ()
            yield self._loop(here, [i for i in here if i in stores], after)

    def _ends(self, instruction: RowWork, level: int) -> bool:
        return self._level[instruction.target.name] == level

    def _loop(self, ends: list[RowWork], stores: list[RowWork], after: tuple[Pointwise, ...]) -> Loop:
        needed = self._recomputed(ends)
        inside = tuple(i for i in self._instructions if i.target.name in needed and isinstance(i, Pointwise))
        sums = tuple(i for i in ends if isinstance(i, Contract | Magnitude))
        read = [e for i in (*inside, *sums) for e in i.reads]
        loads = {name_of(e): e for e in read if name_of(e) not in self._made and wide_axis(self._value(name_of(e)))}
        return Loop(_axis_of(ends[0]), tuple(loads), inside, sums, tuple(i.target.name for i in stores), after)

    def _recomputed(self, ends: Iterable[RowWork]) -> set[str]:
        """Return the entries that a loop computes in registers: those that it stores, and their operands."""
        wanted = {i.target.name for i in ends if isinstance(i, Pointwise)}
        wanted |= {name_of(e) for i in ends for e in i.reads}
        for instruction in reversed(self._instructions):
            if instruction.target.name in wanted and is_wide_pointwise(instruction):
                wanted |= {name_of(e) for e in instruction.reads}
        return {n for n in wanted if n in self._made and is_wide_pointwise(self._made[n])}

    def _value(self, name: str) -> Value:
        return self._program.values[name]


def _axis_of(instruction: RowWork) -> Index:
    """Return the axis of the loop that an instruction ends in."""
    if isinstance(instruction, Pointwise):
        return instruction.target.indices[1]
    return instruction.summed[0]
