"""Split a program into loops over samples (``Walk``), for a target whose kernels process one sample after the other.

    walk       instructions that work on one sample, or sum over samples; fused into one kernel
    library    matrix products, and work on parameters alone; calls of the target's library

A product is scheduled as soon as its operands are ready, and a loop as late as possible, to fuse as much as possible.
A sum over samples is complete only after its loop, so nothing in the same loop may read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codegen.ir.program import Contract, Instruction, Program, Value, name_of
from codegen.passes.accumulation import Types
from derive.forward_map import BATCH


@dataclass(frozen=True)
class Walk:
    """A loop over samples that one kernel runs; ``results`` are the values that are read outside it."""

    instructions: tuple[Instruction, ...]
    results: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the values that it reads from outside, in the order of first use."""
        made = {i.target.name for i in self.instructions}
        names = dict.fromkeys(name_of(e) for i in self.instructions for e in i.reads)
        return tuple(name for name in names if name not in made)

    @property
    def inner(self) -> tuple[Value, ...]:
        """The values that nothing outside reads."""
        return tuple(i.target for i in self.instructions if i.target.name not in self.results)


@dataclass(frozen=True)
class Library:
    """One instruction that the target's library executes."""

    instruction: Instruction


Step = Walk | Library


def is_total(instruction: Instruction) -> bool:
    """Return whether an instruction sums over samples."""
    return BATCH not in instruction.target.indices and any(BATCH in e.indices for e in instruction.reads)


def is_product(instruction: Instruction, types: Types) -> bool:
    """Return whether an instruction is a matrix product that a library computes in the input's type."""
    return (
        isinstance(instruction, Contract)
        and len(instruction.operands) == 2
        and instruction.operands[0] != instruction.operands[1]
        and len(instruction.target.indices) >= 2
        and all(len(o.indices) >= 2 for o in instruction.operands)
        and instruction.target.name not in types.computed_wide
    )


def schedule(program: Program, types: Types) -> tuple[Step, ...]:
    """Return the steps of a program, each after those that compute its operands."""
    known = {v.name for v in program.inputs}
    left = list(program.instructions)
    steps: list[Step] = []
    while left:
        ready = [i for i in left if _in_library(i, types) and _reads(i) <= known]
        steps += [Library(i) for i in ready]
        walk = [] if ready else _walk(left, known, types)
        done = ready or walk
        left = [i for i in left if i not in done]
        known |= {i.target.name for i in done}
        if walk:
            steps.append(Walk(tuple(walk), _results(walk, left, program.outputs)))
        assert done, f"{program.name!r}: no instruction is ready"
    return tuple(steps)


def _in_library(instruction: Instruction, types: Types) -> bool:
    batched = BATCH in instruction.target.indices or any(BATCH in e.indices for e in instruction.reads)
    return is_product(instruction, types) or not batched


def _walk(left: Sequence[Instruction], known: Iterable[str], types: Types) -> list[Instruction]:
    """Return all instructions that one loop can run, given the known values."""
    complete = set(known)
    found = []
    for instruction in left:
        if not _in_library(instruction, types) and _reads(instruction) <= complete:
            found.append(instruction)
            if not is_total(instruction):
                complete.add(instruction.target.name)
    return found


def _results(walk: Sequence[Instruction], later: Sequence[Instruction], outputs: Sequence[str]) -> tuple[str, ...]:
    wanted = {name for i in later for name in _reads(i)} | set(outputs)
    return tuple(i.target.name for i in walk if i.target.name in wanted or is_total(i))


def _reads(instruction: Instruction) -> set[str]:
    return {name_of(e) for e in instruction.reads}
