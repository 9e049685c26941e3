"""The text of kernels: the context that the template of a source file needs for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Indexed, Mul, Symbol

from codegen.ir.program import Contract, Instruction, Magnitude, Pointwise, Program, Value, name_of
from codegen.printing.c_names import check_distinct, identifier
from codegen.printing.c_scalars import ScalarPrinter
from codegen.printing.c_storage import is_column
from codegen.schedule.row_loops import Loop, RowKernel, row_kernel
from codegen.schedule.rows import Columns, Rows
from derive.errors import UsageError
from derive.forward_map import BATCH

_ROWS = "rows"


@dataclass(frozen=True)
class Kernel:
    """A printed kernel: its name, its parameters, and the context of its template.

    Wrappers pass the number of rows, ``lengths``, the addresses of ``tensors`` (with a stride if they have rows), and
    the settings ``scalars``, in this order.
    """

    name: str
    lengths: tuple[Symbol, ...]
    tensors: tuple[str, ...]
    scalars: tuple[Symbol, ...]
    context: Mapping[str, Any]


def row_text(program: Program, rows: Rows, types: Mapping[str, str], prefix: str, dense: bool = False) -> Kernel:
    """Return the kernel of a step that works row by row, named after ``prefix`` and its results.

    In a ``dense`` kernel the rows of every matrix are contiguous, and no strides are passed.
    """
    return _RowText(program, row_kernel(program, rows), types, f"{prefix}_{'_'.join(rows.outputs)}", dense).kernel()


def column_text(program: Program, step: Columns, types: Mapping[str, str], prefix: str, dense: bool = False) -> Kernel:
    """Return the kernel of a step that sums rows; ``dense`` as for ``row_text``."""
    instruction = step.instruction
    name, width = f"{prefix}_{instruction.target.name}", instruction.target.indices[0].size
    values = [program.values[n] for n in dict.fromkeys(name_of(o) for o in instruction.operands)]
    lengths = _symbols([width, *_widths(values)])
    printer = ScalarPrinter(lambda e: identifier(name_of(e)), _length_names(lengths))
    context = {
        "kind": "columns",
        "name": name,
        "parameters": [*length_parameters(lengths), *pointer_parameters(values, types, dense=dense)],
        "width": printer.whole(width),
        "reads": [_read(v, _distance(v, printer) if dense else f"{identifier(v.name)}_stride") for v in values],
        "line": _line(f"sum += {printer.text(Mul(*instruction.operands))};", instruction),
        "type": types[instruction.target.name],
    }
    return _checked(Kernel(name, lengths, tuple(v.name for v in values), (), context))


class _RowText:
    """Prints one row kernel."""

    def __init__(
        self, program: Program, kernel: RowKernel, types: Mapping[str, str], name: str, dense: bool = False
    ) -> None:
        self._kernel, self._types, self._name, self._dense = kernel, types, name, dense
        expressions = [i.expression for i in kernel.instructions if isinstance(i, Pointwise)]
        used = set().union(*(e.free_symbols for e in expressions))
        sizes = {s for v in program.values.values() for i in v.indices for s in i.size.free_symbols}
        widths = _widths((*kernel.reads, *kernel.writes))
        self._lengths = _symbols([*(loop.axis.size for loop in kernel.loops), *sorted(used & sizes, key=str), *widths])
        self._scalars = tuple(s for s in program.scalars if s in used)
        self._names = _length_names(self._lengths)
        for symbol in sorted(used - sizes - {*program.scalars, *_positions(expressions)}, key=str):
            raise UsageError(
                f"kernel {name}: {symbol} is not the length of any of its tensors; pass a tensor that has this axis"
            )

    def kernel(self) -> Kernel:
        """Return the printed kernel."""
        reads, writes = self._kernel.reads, self._kernel.writes
        outside = self._printer(())
        settings = [identifier(str(s)) for s in self._scalars]
        context = {
            "kind": "rows",
            "name": self._name,
            "parameters": [
                *length_parameters(self._lengths),
                *pointer_parameters(reads, self._types, dense=self._dense),
                *pointer_parameters(writes, self._types, const=False, dense=self._dense),
                *(f"const double {name}_setting" for name in settings),
            ],
            "scalars": settings,
            "rows": [self._row_pointer(v, v in writes) for v in (*reads, *writes) if not is_column(v)],
            "columns": [identifier(v.name) for v in reads if is_column(v)],
            "matrices": [(identifier(v.name), outside.whole(v.indices[1].size)) for v in reads if len(v.indices) == 2],
            "before": [assigned(i, outside) for i in self._kernel.before],
            "loops": [self._loop(loop) for loop in self._kernel.loops],
            "results": [identifier(v.name) for v in writes if is_column(v)],
        }
        tensors = tuple(v.name for v in (*reads, *writes))
        return _checked(Kernel(self._name, self._lengths, tensors, self._scalars, context))

    def _row_pointer(self, value: Value, written: bool) -> str:
        name = identifier(value.name)
        distance = _distance(value, self._printer(())) if self._dense else f"{name}_stride"
        offset = f" + row * {distance}" if len(value.indices) == 2 else ""
        return f"{'' if written else 'const '}{self._types[value.name]}* {name}_row = {name}_data{offset};"

    def _printer(self, arrays: Iterable[str]) -> ScalarPrinter:
        """Return a printer that writes entries of ``arrays`` as registers of the loop."""
        here = set(arrays)

        def entry(e: Indexed) -> str:
            return identifier(name_of(e)) + ("[k]" if name_of(e) in here else "")

        return ScalarPrinter(entry, self._names)

    def _loop(self, loop: Loop) -> dict[str, Any]:
        printer, outside = self._printer((*loop.loads, *loop.stores)), self._printer(())
        return {
            "length": printer.whole(loop.axis.size),
            "loads": [identifier(n) for n in loop.loads],
            "stores": [identifier(n) for n in loop.stores],
            "sums": [identifier(i.target.name) for i in loop.sums],
            "largest": [identifier(i.target.name) for i in loop.sums if isinstance(i, Magnitude)],
            "lines": [
                *(assigned(i, printer, i.target.name in loop.stores) for i in loop.pointwise),
                *(accumulated(i, printer) for i in loop.sums),
            ],
            "totals": [_total(i) for i in loop.sums],
            "after": [assigned(i, outside) for i in loop.after],
        }


def _positions(expressions: Iterable[Expr]) -> set[Symbol]:
    """Return the symbols that belong to entries: their indices and the names of their tensors."""
    return {s for e in expressions for entry in e.atoms(Indexed) for s in entry.free_symbols}


def _symbols(sizes: Iterable[Expr]) -> tuple[Symbol, ...]:
    """Return the symbols of axis lengths in order, without repeats and without the number of rows."""
    found = [s for size in sizes for s in sorted(size.free_symbols, key=str)]
    return tuple(s for s in dict.fromkeys(found) if s != BATCH.size)


def _length_names(lengths: Iterable[Symbol]) -> dict[Symbol, str]:
    return {BATCH.size: _ROWS, **{s: identifier(str(s)) for s in lengths}}


def length_parameters(lengths: Iterable[Symbol]) -> list[str]:
    """Return the parameters for the number of rows and the axis lengths."""
    return [f"const Offset {name}" for name in (_ROWS, *(identifier(str(s)) for s in lengths))]


def pointer_parameters(
    values: Iterable[Value], types: Mapping[str, str], const: bool = True, dense: bool = False
) -> list[str]:
    """Return the parameters for values: an address, and unless ``dense`` the stride of its rows."""
    texts = []
    for value in values:
        name = identifier(value.name)
        texts.append(f"{'const ' if const else ''}{types[value.name]}* {name}_data")
        if not dense and (len(value.indices) == 2 or is_column(value)):
            texts.append(f"const Offset {name}_stride")
    return texts


def _widths(values: Iterable[Value]) -> list[Expr]:
    return [v.indices[1].size for v in values if len(v.indices) == 2]


def _distance(value: Value, printer: ScalarPrinter) -> str:
    """Return the row stride of a contiguous value."""
    text = printer.whole(value.indices[1].size) if len(value.indices) == 2 else "1"
    return text if text.isalnum() else f"({text})"


def _read(value: Value, distance: str) -> str:
    """Return the line of a column kernel that reads an entry of the current row."""
    name = identifier(value.name)
    row = "row" if distance == "1" else f"row * {distance}"
    offset = row if is_column(value) else f"{row} + column"
    return f"const Wide {name} = widen({name}_data[{offset}]);"


def assigned(instruction: Pointwise, printer: ScalarPrinter, array: bool = False) -> str:
    """Return the line of a pointwise instruction; with ``array`` its result is a register of the loop."""
    name = identifier(instruction.target.name)
    target = f"{name}[k]" if array else f"const Wide {name}"
    return _line(f"{target} = {printer.text(instruction.expression)};", instruction)


def accumulated(instruction: Contract | Magnitude, printer: ScalarPrinter) -> str:
    """Return the line of a loop that adds to a sum, or updates a magnitude."""
    name = identifier(instruction.target.name)
    if isinstance(instruction, Magnitude):
        return _line(f"{name} = fmax({name}, fabs({printer.text(instruction.operand)}));", instruction)
    product = " * ".join(printer.text(o) for o in instruction.operands)
    return _line(f"{name} += {product};", instruction)


def _total(instruction: Contract | Magnitude) -> str:
    name = identifier(instruction.target.name)
    if isinstance(instruction, Magnitude):
        return f"{name} = magnitude(row_largest({name}));"
    return f"{name} = row_sum({name});"


def _line(code: str, instruction: Instruction) -> str:
    return f"{code}  // {instruction.equation}" if instruction.equation else code


def _checked(kernel: Kernel) -> Kernel:
    """Return the kernel; raise ``UsageError`` if two of its names are equal."""
    parameters = [text.split()[-1].lstrip("*") for text in kernel.context["parameters"]]
    tensors = [identifier(name) for name in kernel.tensors]
    check_distinct(kernel.name, [*parameters, *tensors, *kernel.context.get("scalars", ())])
    return kernel
