"""The Python around the kernels: steps as lines that launch a kernel, multiply matrices, or call torch.

In these lines ``kernels`` holds the compiled kernels for the device and type of the input; see ``runtime/launch.py``.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Indexed

from codegen.ir.program import Contract, Instruction, Pointwise, Program, Value, name_of
from codegen.printing.c_kernels import Kernel, column_text, row_text
from codegen.printing.c_storage import ELEMENT, WIDE, is_column, storage
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.layout import sizes
from codegen.printing.torch_lines import Style, TorchPrinter
from codegen.schedule.rows import Columns, Plain, Product, Rows, Step, schedule
from derive.forward_map import BATCH

_MOST_VARIANTS = 2
_WIDTH = 108


@dataclass(frozen=True)
class Printed:
    """Lines of Python, and the kernels that they launch."""

    lines: tuple[str, ...]
    kernels: tuple[Kernel, ...]


def printed(program: Program, prefix: str, own: str) -> Printed:
    """Return the lines that execute a program; ``own`` names a tensor in scope that has the input's type.

    Raises ``UsageError`` for an instruction that neither a kernel nor torch's printer supports.
    """
    return StepPrinter(program, prefix, own).printed()


def variants(program: Program) -> Iterator[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """Yield groups of results that share work, and for each the subsets to print a variant for, larger ones first.

    Results that are wanted together share kernels; for a result that is not wanted, nothing is computed.
    """
    for group in _groups(program):
        if len(group) > _MOST_VARIANTS:
            yield group, (group,)
            continue
        counts = range(len(group), 0, -1)
        yield group, tuple(c for count in counts for c in itertools.combinations(group, count))


def _groups(program: Program) -> list[tuple[str, ...]]:
    """Return the outputs in groups; outputs are in one group if they need the same instruction.

    Scalars of a row that are computed from others do not count: recomputing them is cheap.
    """
    groups: list[tuple[set[str], list[str]]] = []
    for output in program.outputs:
        needs = {i.target.name for i in program.needed_for([output]) if not _is_scalar_of_a_row(i)}
        meeting = [g for g in groups if g[0] & needs]
        merged = (needs.union(*(g[0] for g in meeting)), [*(n for g in meeting for n in g[1]), output])
        groups = [*(g for g in groups if g not in meeting), merged]
    return [tuple(o for o in program.outputs if o in names) for _, names in groups]


def _is_scalar_of_a_row(instruction: Instruction) -> bool:
    return isinstance(instruction, Pointwise) and is_column(instruction.target)


class StepPrinter:
    """Prints the steps of a program as calls of ``kernels``, which take row strides unless they are ``dense``."""

    dense = False

    def __init__(self, program: Program, prefix: str, own: str) -> None:
        self._program, self._prefix, self._own = program, prefix, own
        self._steps = schedule(program)
        self._types = storage(program, self._steps)
        self._sizes = sizes(program)
        self._kernels: list[Kernel] = []

    def printed(self) -> Printed:
        """Return the lines of all steps, and the kernels that they launch."""
        lines = [line for step in self._steps for line in self._step(step)]
        return Printed(tuple(lines), tuple(self._kernels))

    def _step(self, step: Step) -> list[str]:
        match step:
            case Rows():
                return self._rows(step)
            case Columns(instruction):
                return self._columns(step, instruction)
            case Product(instruction):
                return self._product(instruction)
            case Plain(instruction):
                return self._plain(instruction)

    def _rows(self, step: Rows) -> list[str]:
        kernel = self._row_kernel(step)
        self._kernels.append(kernel)
        made = [line for name in step.outputs for line in self._allocated(self._program.values[name], step)]
        settings = [str(s) for s in kernel.scalars]
        call = self._launched("rows", kernel, (*kernel.tensors, *settings))
        equations = [i.equation for i in step.instructions if i.target.name in self._program.outputs and i.equation]
        return [*made, *noted(call, *equations)]

    def _row_kernel(self, step: Rows) -> Kernel:
        return row_text(self._program, step, self._types, self._prefix, self.dense)

    def _allocated(self, value: Value, step: Rows) -> list[str]:
        rows = self._sizes[BATCH.size]
        if is_column(value):
            return self._made("column", value, rows)
        over = self._reusable(value, step) if self._types[value.name] == ELEMENT else None
        if over:
            return [f"{value.name} = {self._in_place_of(over)}"]
        return self._made("matrix", value, rows, self._length(value.indices[1].size))

    def _made(self, kind: str, value: Value, *lengths: str) -> list[str]:
        """Return the lines that allocate a value's memory."""
        return [f"{value.name} = {self._memory(kind, value, *lengths)}"]

    def _launched(self, kind: str, kernel: Kernel, arguments: Sequence[str]) -> str:
        return f'kernels.{kind}("{kernel.name}", {self._shape(kernel)}, {", ".join(arguments)})'

    def _memory(self, kind: str, value: Value, *lengths: str) -> str:
        wide = "" if kind == "column" else self._wide(value)
        return f"kernels.{kind}({', '.join(lengths)}{wide})"

    def _in_place_of(self, product: str) -> str:
        return f"kernels.over({product})"

    def _multiplied(self, left: Factor, right: Factor, target: Value) -> str:
        return f"kernels.product({left}, {right}{self._wide(target)})"

    def _reusable(self, value: Value, step: Rows) -> str | None:
        """Return a matrix product whose memory the kernel may overwrite: it is its last reader, entry by entry."""
        products = {s.instruction.target.name for s in self._steps if isinstance(s, Product)}
        inside = {i.target.name for i in step.instructions}
        later = {name_of(e) for i in self._program.instructions if i.target.name not in inside for e in i.reads}
        users = [(i, e) for i in step.instructions for e in i.reads if name_of(e) in products]
        for instruction, entry in users:
            name = name_of(entry)
            here = instruction.target == value and tuple(entry.indices) == value.indices
            if here and name not in later and name not in self._program.outputs and self._types[name] == WIDE:
                return name
        return None

    def _columns(self, step: Columns, instruction: Contract) -> list[str]:
        kernel = column_text(self._program, step, self._types, self._prefix, self.dense)
        self._kernels.append(kernel)
        target = instruction.target
        made = self._made("vector", target, self._length(target.indices[0].size))
        call = self._launched("columns", kernel, (*kernel.tensors, target.name))
        return [*made, *noted(call, instruction.equation)]

    def _product(self, instruction: Contract) -> list[str]:
        target = instruction.target
        first, second = instruction.operands
        if target.indices[0] not in first.indices:
            first, second = second, first
        (inner,) = instruction.summed
        left = _factor(first, (target.indices[0], inner))
        right = _factor(second, (inner, target.indices[1]))
        return noted(f"{target.name} = {self._multiplied(left, right, target)}", instruction.equation)

    def _plain(self, instruction: Instruction) -> list[str]:
        names = {name_of(e) for e in instruction.reads}
        inputs = tuple(v for v in self._program.values.values() if v.name in names)
        alone = Program(self._program.name, inputs, self._program.scalars, (instruction,), (instruction.target.name,))
        wide = frozenset(v.name for v in inputs if self._types[v.name] == WIDE)
        style = Style(own=self._own if self._types[instruction.target.name] == ELEMENT else None, wide=wide)
        return [text for line in TorchPrinter(alone, style).lines() for text in line.printed()]

    def _shape(self, kernel: Kernel) -> str:
        lengths = [self._sizes[BATCH.size], *(self._length(s) for s in kernel.lengths)]
        return f"({', '.join(lengths)}{',' * (len(lengths) == 1)})"

    def _length(self, size: Expr) -> str:
        return ExpressionPrinter(str, self._sizes).text(size)

    def _wide(self, value: Value) -> str:
        return ", wide=True" if self._types[value.name] == WIDE else ""


@dataclass(frozen=True)
class Factor:
    """A factor of a matrix product: the name of a tensor, and whether it is transposed."""

    name: str
    turned: bool

    def __str__(self) -> str:
        """Return its Python text."""
        return f"{self.name}.t()" if self.turned else self.name


def _factor(entry: Indexed, wanted: tuple[Any, Any]) -> Factor:
    return Factor(name_of(entry), tuple(entry.indices) != wanted)


def noted(code: str, *equations: str) -> list[str]:
    """Return a line with its equations in a comment at its end, or before it if the line would be too long."""
    note = ", ".join(e for e in equations if e)
    whole = f"{code}  # {note}"
    if note and len(whole) <= _WIDTH:
        return [whole]
    return [*([f"# {note}"] if note else []), *_broken(code)]


def _broken(call: str) -> list[str]:
    """Return a call on one line, or its arguments on lines of their own."""
    if len(call) <= _WIDTH:
        return [call]
    head, arguments = call.removesuffix(")").split("(", 1)
    return [f"{head}(", *(f"    {line}" for line in textwrap.wrap(arguments, _WIDTH - 4)), ")"]


def unique(kernels: Sequence[Kernel]) -> list[Mapping[str, Any]]:
    """Return the contexts of kernels without repeated names."""
    found: dict[str, Mapping[str, Any]] = {}
    for kernel in kernels:
        assert found.setdefault(kernel.name, kernel.context) == kernel.context, kernel.name
    return list(found.values())
