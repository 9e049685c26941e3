"""Schedule a map of rows: which instructions share a kernel, which are matrix products, which torch executes.

    rows        work inside one row: sums along it, scalars of it, entries of it               one kernel
    columns     sums over rows, optionally scaled                                              a kernel of two stages
    product     a product of two matrices                                                      torch
    plain       anything else, such as work on a parameter                                     torch

Row-local work is scheduled as late as its consumers allow, to fuse it into few kernels: the row term of
dx waits for ``g W``, and reads the row once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

from sympy import Indexed

from codegen.ir.program import Contract, Instruction, Magnitude, Pointwise, Program, Value, name_of
from derive.algebra.index import Index
from derive.forward_map import BATCH

RowWork = Contract | Pointwise | Magnitude


@dataclass(frozen=True)
class Rows:
    """Instructions of one kernel that works row by row, and the values that it writes."""

    instructions: tuple[RowWork, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """``target[i] = sum over rows of an entry of a matrix, times entries of columns``."""

    instruction: Contract


@dataclass(frozen=True)
class Product:
    """A product of two matrices."""

    instruction: Contract


@dataclass(frozen=True)
class Plain:
    """An instruction that torch executes."""

    instruction: Instruction


Step = Rows | Columns | Product | Plain


def schedule(program: Program) -> tuple[Step, ...]:
    """Return the steps that execute a program, in order."""
    first = _earliest(program)
    latest = _latest(program, max(first.values(), default=0))
    steps: list[Step] = []
    for turn in range(max(latest.values(), default=0) + 1):
        due = [i for i in program.instructions if latest[i.target.name] == turn]
        inside = tuple(i for i in due if is_row_work(i))
        if inside:
            steps.append(Rows(inside, _outputs(program, inside)))
        steps += [outside(i) for i in due if not is_row_work(i)]
    return tuple(steps)


def in_batch(indices: Iterable[Index]) -> bool:
    """Return whether values along these indices are stored as one row per sample."""
    return next(iter(indices)).size == BATCH.size


def is_row_work(instruction: Instruction) -> TypeGuard[RowWork]:
    """Return whether an instruction works inside a row: it reads rows and columns and writes a row or a column.

    A vector of a parameter may be read along the row; a matrix of a parameter may not.
    """
    target = instruction.target
    if not isinstance(instruction, Contract | Magnitude | Pointwise):
        return False
    if len(target.indices) > 2 or not in_batch(target.indices):
        return False
    if isinstance(instruction, Contract | Magnitude) and (len(target.indices) != 1 or len(instruction.summed) != 1):
        return False
    return all(_inside(entry, target) for entry in instruction.reads)


def _inside(entry: Indexed, target: Value) -> bool:
    here = entry.indices[0] == target.indices[0]
    return len(entry.indices) <= 2 if here else len(entry.indices) == 1 and not in_batch(entry.indices)


def outside(instruction: Instruction) -> Step:
    """Return the step of an instruction that does not work inside a row."""
    if isinstance(instruction, Contract):
        axes = [len(o.indices) for o in instruction.operands]
        if axes == [2, 2] and len(instruction.summed) == 1 and len(instruction.target.indices) == 2:
            return Product(instruction)
        if _sums_rows(instruction):
            return Columns(instruction)
    return Plain(instruction)


def _sums_rows(instruction: Contract) -> bool:
    wide = [o for o in instruction.operands if len(o.indices) == 2]
    over = instruction.summed
    return (
        len(over) == 1
        and in_batch(over)
        and len(wide) == 1
        and wide[0].indices == (*over, *instruction.target.indices)
        and all(tuple(o.indices) == tuple(over) for o in instruction.operands if o is not wide[0])
    )


def _earliest(program: Program) -> dict[str, int]:
    """Return the earliest turn of every instruction; in a turn, work inside rows comes first."""
    turns: dict[str, int] = {}
    outside = {i.target.name for i in program.instructions if not is_row_work(i)}
    for instruction in program.instructions:
        step = int(is_row_work(instruction))
        read = [n for n in map(name_of, instruction.reads) if n in turns]
        turns[instruction.target.name] = max((turns[n] + step * (n in outside) for n in read), default=0)
    return turns


def _latest(program: Program, last: int) -> dict[str, int]:
    """Return the latest turn of every instruction that its consumers allow."""
    turns: dict[str, int] = {}
    users: dict[str, list[Instruction]] = {}
    for instruction in reversed(program.instructions):
        own = int(not is_row_work(instruction))
        limits = [turns[u.target.name] - own * is_row_work(u) for u in users.get(instruction.target.name, [])]
        turns[instruction.target.name] = min(limits, default=last)
        for name in {name_of(e) for e in instruction.reads}:
            users.setdefault(name, []).append(instruction)
    return turns


def _outputs(program: Program, inside: tuple[RowWork, ...]) -> tuple[str, ...]:
    """Return which values of a kernel are read outside it or are results."""
    read = {name_of(e) for i in program.instructions if i not in inside for e in i.reads} | set(program.outputs)
    return tuple(i.target.name for i in inside if i.target.name in read)


def is_wide_pointwise(instruction: Instruction) -> TypeGuard[Pointwise]:
    """Return whether an instruction computes one value per entry of a row."""
    return isinstance(instruction, Pointwise) and len(instruction.target.indices) == 2
