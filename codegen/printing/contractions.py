"""Contractions as PyTorch calls: matrix products and sums along an axis where possible, ``einsum`` for the rest.

Every operand is a matrix, a vector, or a column (see ``layout``); ``s`` is the batch index.

    sum[j](x[s,j]*W[i,j])   F.linear(x, W)         sum[j](u[s,j]*v[s,j])   (u * v).sum(-1, keepdim=True)
    sum[i](g[s,i]*W[i,j])   g @ W                  sum[s](g[s,i])          g.sum(0)
    sum[s](g[s,i]*u[s,j])   g.t() @ u              sum[s](f[s]*g[s,i])     f.squeeze(-1) @ g
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase

from sympy import Indexed

from codegen.ir.program import Contract
from codegen.printing.layout import is_column
from derive.algebra.index import Index


@dataclass(frozen=True)
class Term:
    """Printed text, whether it binds as tightly as a name, and whether its tensor is at least float32."""

    text: str
    atomic: bool = True
    wide: bool = False

    @property
    def operand(self) -> str:
        """The text, in parentheses if needed before a dot or next to an operator."""
        return self.text if self.atomic else f"({self.text})"


@dataclass(frozen=True)
class Operands:
    """How the calling printer writes operands: ``plain`` unchanged, ``narrowed`` in the input's type."""

    plain: Callable[[Indexed], str]
    narrowed: Callable[[Indexed], str]
    wide: Callable[[Indexed], bool]
    promotes: bool


def contraction(instruction: Contract, operands: Operands, bias: str | None = None) -> Term:
    """Return the call that computes a contraction; ``bias`` is a vector that the matrix product adds."""
    entries = instruction.operands
    if len(entries) == 1:
        return _sum(instruction, operands)
    if len(entries) == 2:
        ranks = {len(e.indices) for e in entries}
        printed = _matrices(instruction, operands, bias) if ranks == {2} else _with_vector(instruction, operands)
        if printed:
            return printed
    return _einsum(instruction, operands)


def _sum(instruction: Contract, operands: Operands) -> Term:
    """The sum of one tensor along its last or first axis."""
    (entry,) = instruction.operands
    if set(entry.indices) == set(instruction.summed):
        return Term(f"{operands.plain(entry)}.sum()", wide=operands.wide(entry))
    last = entry.indices[-1] in instruction.summed
    keep = ", keepdim=True" if is_column(instruction.target.indices) else ""
    return Term(f"{operands.plain(entry)}.sum({-1 if last else 0}{keep})", wide=operands.wide(entry))


def _matrices(instruction: Contract, operands: Operands, bias: str | None) -> Term | None:
    first, second = instruction.operands
    target, summed = instruction.target.indices, instruction.summed
    wide = operands.wide(first) or operands.wide(second)
    if tuple(first.indices) == tuple(second.indices) and len(summed) == 1 and len(target) == 1:
        along = "-1, keepdim=True" if is_column(target) else str(first.indices.index(summed[0]))
        return Term(f"({operands.plain(first)} * {operands.plain(second)}).sum({along})", wide=wide)
    if len(summed) != 1 or len(target) != 2 or set(first.indices) == set(second.indices):
        return None
    if target[0] in second.indices:
        first, second = second, first
    left = _turned(first, (target[0], summed[0]), operands)
    if tuple(second.indices) == (target[1], summed[0]):
        added = f", {bias}" if bias else ""
        return Term(f"F.linear({left}, {operands.narrowed(second)}{added})")
    return Term(f"{left} @ {operands.narrowed(second)}", atomic=False)


def _turned(entry: Indexed, wanted: tuple[Index, Index], operands: Operands) -> str:
    text = operands.narrowed(entry)
    return text if tuple(entry.indices) == wanted else f"{text}.t()"


def _with_vector(instruction: Contract, operands: Operands) -> Term | None:
    """A matrix and a vector or column that share the one summed index."""
    vector, matrix = sorted(instruction.operands, key=lambda e: len(e.indices))
    if len(vector.indices) != 1 or len(matrix.indices) != 2 or vector.indices[0] not in instruction.summed:
        return None
    if len(instruction.summed) != 1:
        return None
    first_axis = matrix.indices[0] == vector.indices[0]
    if is_column(vector.indices) and first_axis:
        if operands.promotes:
            return Term(f"({operands.plain(vector)} * {operands.plain(matrix)}).sum(0)", wide=True)
        return Term(f"weighted_sum({operands.plain(vector)}, {operands.plain(matrix)})")
    left, right = operands.narrowed(matrix), operands.narrowed(vector)
    product = f"{left}.t() @ {right}" if first_axis else f"{left} @ {right}"
    if is_column(instruction.target.indices):
        return Term(f"({product}).unsqueeze(-1)")
    return Term(product, atomic=False)


def _einsum(instruction: Contract, operands: Operands) -> Term:
    letters: dict[Index, str] = {}
    for entry in (*instruction.operands, instruction.target.entry):
        for index in entry.indices:
            letters.setdefault(index, ascii_lowercase[len(letters)])
    inside = ",".join("".join(letters[i] for i in e.indices) for e in instruction.operands)
    outside = "".join(letters[i] for i in instruction.target.indices)
    flat = [operands.narrowed(e) + (".squeeze(-1)" if is_column(e.indices) else "") for e in instruction.operands]
    call = f'torch.einsum("{inside}->{outside}", {", ".join(flat)})'
    return Term(call + (".unsqueeze(-1)" if is_column(instruction.target.indices) else ""))
