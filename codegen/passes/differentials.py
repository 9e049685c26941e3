"""What reverse and forward mode share: the derivatives of one instruction, and values written out in full."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, Indexed

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
    entries,
    name_of,
)
from codegen.passes.slopes import slope
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, rename


def summed(instruction: Instruction) -> tuple[Index, ...]:
    """Return the indices that an instruction sums over."""
    return instruction.summed if isinstance(instruction, Contract | Convolve) else ()


def partials(instruction: Instruction) -> list[tuple[Indexed, Expr]]:
    """Return each entry read with the derivative with respect to it, one pair for each place of a repeated operand.

    Raise ``ProgramError`` for a gather and its like: ``stepwise`` differentiates these.
    """
    if isinstance(instruction, Magnitude | Peak | Placed):
        raise ProgramError(f"{type(instruction).__name__} of {instruction.target.name!r} has no symbolic derivative")
    if not isinstance(instruction, Pointwise):
        operands = instruction.operands
        links = [link.delta for link in instruction.links] if isinstance(instruction, Convolve) else []
        return [(o, sympy.Mul(*operands[:k], *operands[k + 1 :], *links)) for k, o in enumerate(operands)]
    return [(e, slope(instruction.expression, e, instruction.target.entry)) for e in entries(instruction.expression)]


def explicit_in(expression: Expr, program: Program, saved: Sequence[str]) -> Expr:
    """Return the expression with every intermediate that is not saved replaced by what it stands for."""
    producers = program.producers

    def walk(part: Expr) -> Expr:
        """Return a part in entries of what is saved or given."""
        if isinstance(part, Indexed):
            instruction = producers.get(name_of(part))
            if instruction is None or name_of(part) in saved:
                return part
            assert not isinstance(instruction, Magnitude | Peak | Placed)
            return walk(rename(instruction.meaning, dict(zip(instruction.target.indices, part.indices, strict=True))))
        if not part.args:
            return part
        if isinstance(part, IndexedSum):
            body, bound = part.renamed()
            return IndexedSum(walk(body), *bound)
        return part.func(*(walk(a) if isinstance(a, Expr) else a for a in part.args))

    return walk(expression)
