"""The Python code around the CPU kernels: calls of kernels and of torch, with minimal overhead in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sympy import Expr

from codegen.ir.program import Contract, Instruction, Program, Value, name_of
from codegen.printing.c_kernels import Kernel, row_text
from codegen.printing.c_storage import ELEMENT, WIDE, is_column
from codegen.printing.extents import length_name, shape_text
from codegen.printing.launches import Factor, Printed, StepPrinter
from codegen.schedule.rows import Columns, Rows
from codegen.targets.cpp.unscaled_fast_path import with_trial
from derive.forward_map import BATCH

Lengths = tuple[Expr, ...]


@dataclass(frozen=True)
class Pass(Printed):
    """Lines of Python, and lines that can precede all of them: allocations, and addresses of new and given tensors.

    A matrix product evicts the instruction and data caches, so work before it costs less.
    """

    memory: tuple[str, ...] = ()
    addressed: tuple[str, ...] = ()

    @property
    def opening(self) -> tuple[str, ...]:
        """The lines that come first."""
        return (*self.memory, *(f"{address(name)} = {name}.data_ptr()" for name in self.addressed))

    @property
    def whole(self) -> tuple[str, ...]:
        """All lines in order."""
        return (*self.opening, *self.lines)


def together(parts: Sequence[Pass]) -> Pass:
    """Return passes concatenated to one."""
    return Pass(
        tuple(line for p in parts for line in p.lines),
        tuple(k for p in parts for k in p.kernels),
        tuple(line for p in parts for line in p.memory),
        tuple(dict.fromkeys(name for p in parts for name in p.addressed)),
    )


class HostPrinter(StepPrinter):
    """Prints steps in which all values have the type of the input.

    ``own`` names a tensor in scope of this type; ``spare`` are matrices in scope that are no longer read, by their
    lengths: the first product that fits overwrites one, which is then added to ``taken``. With ``asks``, a kernel's
    report about far rows is assigned to ``far``. ``wide`` is the type of new columns if no column in scope has it.
    Matrix products have the type of their operands.
    """

    dense = True

    def __init__(
        self,
        program: Program,
        prefix: str,
        own: str,
        spare: Mapping[Lengths, str] | None = None,
        asks: bool = False,
        wide: str = "",
    ) -> None:
        super().__init__(program, prefix, own)
        self._asks, self._wide_type = asks, wide
        self._held = {name: WIDE if is_column(v) else ELEMENT for name, v in program.values.items()}
        self._column = next((v.name for v in program.inputs if is_column(v)), own)
        self._spare = dict(spare or {})
        self.taken: list[str] = []
        self._sizes = {size: length_name(size) for size in self._sizes}
        self._opened: dict[str, str] = {}
        self._addressed: list[str] = []
        self._in_place: dict[str, str] = {}

    def printed(self) -> Pass:
        """Return the lines of all steps, the lines before them, and the kernels that they launch."""
        return self._as_pass(super().printed().lines)

    def _as_pass(self, lines: Sequence[str]) -> Pass:
        addressed = tuple(dict.fromkeys(self._addressed))
        return Pass(tuple(lines), tuple(self._kernels), tuple(self._opened.values()), addressed)

    def scratch(self) -> dict[Lengths, str]:
        """Return the matrices that these lines allocate and that hold no result, by their lengths."""
        made = [self._program.values[n] for s in self._steps if isinstance(s, Rows) for n in s.outputs]
        return {_lengths(v): v.name for v in made if len(v.indices) == 2 and v.name not in self._program.outputs}

    def _launched(self, kind: str, kernel: Kernel, arguments: Sequence[str]) -> str:
        lengths = [length_name(BATCH.size), *(self._length(s) for s in kernel.lengths)]
        passed = map(self._passed, arguments)
        call = f"kernels.{kernel.name}({', '.join((*lengths, *passed, 'threads'))})"
        return f"far = {call}" if self._asks and tells(kernel) else call

    def _passed(self, name: str) -> str:
        """Return a setting, or the address of a tensor: known before the first line unless a product computes it."""
        value = self._program.values.get(name)
        if value is None:
            return name
        if value in self._program.inputs or name in self._opened:
            self._addressed.append(name)
        return address(self._in_place.get(name, name))

    def _product(self, instruction: Contract) -> list[str]:
        return [*super()._product(instruction), *self._found(instruction.target.name)]

    def _plain(self, instruction: Instruction) -> list[str]:
        return [*super()._plain(instruction), *self._found(instruction.target.name)]

    def _found(self, name: str) -> list[str]:
        """Return the line that reads the address of torch's result, if a kernel reads it."""
        kernels = (s for s in self._steps if isinstance(s, Rows | Columns))
        inside = (i for s in kernels for i in (s.instructions if isinstance(s, Rows) else (s.instruction,)))
        read = name in {name_of(e) for i in inside for e in i.reads}
        if not read:
            return []
        shape = shape_text(self._program.values[name])
        return [f"{address(name)} = check_result({name}, {self._own}, {shape}).data_ptr()"]

    def _reusable(self, value: Value, step: Rows) -> str | None:
        product = super()._reusable(value, step)
        if product is not None:
            self._in_place[value.name] = product
        return product

    def _made(self, kind: str, value: Value, *lengths: str) -> list[str]:
        (self._opened[value.name],) = super()._made(kind, value, *lengths)
        return []

    def _memory(self, kind: str, value: Value, *lengths: str) -> str:
        if kind == "column":
            wide = f", dtype={self._wide_type}" if self._wide_type else ""
            return f"{self._column}.new_empty({', '.join(lengths)}, 1{wide})"
        return f"{self._own}.new_empty({', '.join(lengths)})"

    def _row_kernel(self, step: Rows) -> Kernel:
        return row_text(self._program, step, self._held, self._prefix, self.dense)

    def _in_place_of(self, product: str) -> str:
        return f"{product}  # in place"

    def _multiplied(self, left: Factor, right: Factor, target: Value) -> str:
        spare = self._spare.pop(_lengths(target), "")
        self.taken += [spare] if spare else []
        if right.turned and not spare:  # saves the call that transposes a matrix
            return f"F.linear({left}, {right.name})"
        return f"torch.mm({left}, {right}{f', out={spare}' if spare else ''})"


def tells(kernel: Kernel) -> bool:
    """Return whether a kernel reports far rows, which is so if it has an unscaled trial."""
    return with_trial(kernel.context)["trial"] is not None


def address(name: str) -> str:
    """Return the name of a tensor's address in the lines of a pass."""
    return f"{name}_at"


def walked(program: Program, kernels: Iterable[Kernel]) -> list[str]:
    """Return the inputs whose rows kernels read, which must therefore be contiguous."""
    read = {name for kernel in kernels for name in kernel.tensors}
    return [v.name for v in program.inputs if v.name in read and not is_column(v)]


def _lengths(value: Value) -> Lengths:
    return tuple(i.size for i in value.indices)
