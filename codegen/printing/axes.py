"""Programs whose values have any number of axes, as lines of differentiable PyTorch.

Contractions are ``einsum``, sums of squares ``square().sum()``. One number per row is kept as a column, with a last
axis of length 1, so that it scales rows by broadcasting; a parameter gets axes of length 1 where the target has more
axes. Scales are at least float32; products are computed, and results returned, in the type of the tensor ``own``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_lowercase

from sympy import Indexed

from codegen.ir.program import Contract, Instruction, Magnitude, Pointwise, Program, Value, name_of
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.torch_lines import Line
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH


class AxesPrinter:
    """Prints one program; ``own`` is the tensor whose type results have, ``wide`` the inputs that may be wider."""

    def __init__(self, program: Program, own: str, wide: Iterable[str] = ()) -> None:
        self._program = program
        self._own = own
        self._wide = set(wide)
        self._lengths = _lengths(program)
        self._within_length = {i.target.name for pair in self._lengths.values() for i in pair}
        rows = program.values[own].indices[:-1]
        self._columns = {v.name for v in program.values.values() if v.indices and _covers(rows, v.indices)}

    def lines(self) -> list[Line]:
        """Return one line per instruction, in order."""
        return [self._line(i) for i in self._program.instructions if i.target.name not in self._within_length]

    def _line(self, instruction: Instruction) -> Line:
        name = instruction.target.name
        if isinstance(instruction, Magnitude):
            _, total = self._lengths[name]
            self._wide |= {name, total.target.name}
            call = f"squared_length({name_of(instruction.operand)})"
            return Line(f"{name}, {total.target.name}", call, total.equation)
        if isinstance(instruction, Contract):
            return Line(name, self._contraction(instruction), instruction.equation)
        if not isinstance(instruction, Pointwise):
            raise UsageError(f"program {self._program.name!r}: no text for {type(instruction).__name__} of {name!r}")
        printer = ExpressionPrinter(lambda e: self._spread(e, instruction.target))
        text = printer.text(instruction.expression)
        if any(name_of(e) in self._wide for e in instruction.reads):
            self._wide.add(name)
        if name in self._wide and name in self._program.outputs and name not in self._columns:
            text = f"{printer.factor(instruction.expression)}.to({self._own}.dtype)"
        return Line(name, text, instruction.equation)

    def _contraction(self, instruction: Contract) -> str:
        operands = instruction.operands
        if len(operands) == 2 and operands[0] == operands[1]:
            return self._squares(instruction)
        letters = _letters([*operands, instruction.target.entry])
        inside = ",".join("".join(letters[i] for i in o.indices) for o in operands)
        outside = "".join(letters[i] for i in self._layout(instruction))
        return f'torch.einsum("{inside}->{outside}", {", ".join(self._narrowed(o) for o in operands)})'

    def _squares(self, instruction: Contract) -> str:
        entry = instruction.operands[0]
        axes = [k - len(entry.indices) for k, i in enumerate(entry.indices) if i in instruction.summed]
        keep = ", keepdim=True" if instruction.target.name in self._columns else ""
        return f"{name_of(entry)}.square().sum({_tuple(axes)}{keep})"

    def _layout(self, contract: Contract) -> tuple[Index, ...]:
        """Return a contraction's axes in the order in which its result is stored: its first operand's axes first."""
        if contract.target.name in self._program.outputs:
            return contract.target.indices
        free = [i for o in contract.operands for i in o.indices if i not in contract.summed]
        return tuple(dict.fromkeys(free))

    def _stored(self, entry: Indexed) -> tuple[Index, ...]:
        """Return an entry's indices in the order in which its tensor is stored."""
        producer = self._program.producers.get(name_of(entry))
        if not isinstance(producer, Contract) or name_of(entry) in self._columns:
            return tuple(entry.indices)
        here = dict(zip(producer.target.indices, entry.indices, strict=True))
        return tuple(here[i] for i in self._layout(producer))

    def _spread(self, entry: Indexed, target: Value) -> str:
        """Return the text of a tensor shaped to broadcast to the target."""
        name, own = name_of(entry), self._stored(entry)
        if own == target.indices or name in self._columns:
            return name
        places = [target.indices.index(i) for i in own]
        if places != sorted(places) or places[-1] != len(target.indices) - 1:
            raise UsageError(f"program {self._program.name!r}: no layout for {entry} inside {target.entry}")
        gaps = [k for k in range(places[0], len(target.indices)) if k not in places]
        return name + "".join(f".unsqueeze({k - places[0]})" for k in gaps)

    def _narrowed(self, entry: Indexed) -> str:
        name = name_of(entry)
        return f"{name}.to({self._own}.dtype)" if name in self._wide else name


def _lengths(program: Program) -> dict[str, tuple[Pointwise, Contract]]:
    """Return by each magnitude's name the quotient by it and the sum of that quotient's squares."""
    found = {}
    for place, peak in enumerate(program.instructions):
        if isinstance(peak, Magnitude):
            quotient, total = program.instructions[place + 1 : place + 3]
            assert isinstance(quotient, Pointwise) and isinstance(total, Contract), "for sums of squares only"
            found[peak.target.name] = (quotient, total)
    return found


def _covers(rows: Sequence[Index], indices: Sequence[Index]) -> bool:
    """Whether a value has one number per row: the batch axis first, and the lengths of all axes but the last."""
    return indices[0] == BATCH and [i.size for i in indices] == [i.size for i in rows]


def _letters(entries: Sequence[Indexed]) -> dict[Index, str]:
    """Return a letter for each index: its own name if that is a free letter."""
    found: dict[Index, str] = {}
    for index in dict.fromkeys(i for e in entries for i in e.indices):
        free = [letter for letter in (index.name, *ascii_lowercase) if letter not in found.values()]
        found[index] = next(letter for letter in free if len(letter) == 1 and letter in ascii_lowercase)
    return found


def _tuple(axes: Sequence[int]) -> str:
    return str(axes[0]) if len(axes) == 1 else f"({', '.join(map(str, axes))})"
