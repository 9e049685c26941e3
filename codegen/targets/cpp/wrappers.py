"""The Python around the kernels of the CPU: calls of them, and of torch, with as little as possible in between."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from sympy import Expr, Symbol

from codegen.program import Program, Value
from codegen.targets.cuda.kernels import Kernel
from codegen.targets.cuda.schedule import Rows
from codegen.targets.cuda.storage import is_column
from codegen.targets.cuda.wrappers import StepPrinter
from codegen.targets.torch.layout import sizes
from derive.forward_map import BATCH

Lengths = tuple[Expr, ...]


class HostPrinter(StepPrinter):
    """Prints steps where the type of the input is that of all that is made of it.

    ``own`` names a tensor in scope that has this type; ``spare`` are matrices in scope that are read no more, by their
    lengths: the first product that fits takes the memory of one, which is then among those ``taken``.
    """

    def __init__(self, program: Program, prefix: str, own: str, spare: Mapping[Lengths, str] | None = None) -> None:
        super().__init__(program, prefix, own)
        self._spare = dict(spare or {})
        self.taken: list[str] = []
        self._sizes = {size: length_name(size) for size in self._sizes}

    def scratch(self) -> dict[Lengths, str]:
        """Return the matrices that these lines make and that hold no result, by their lengths."""
        made = [self._program.values[n] for s in self._steps if isinstance(s, Rows) for n in s.outputs]
        return {_lengths(v): v.name for v in made if len(v.indices) == 2 and v.name not in self._program.outputs}

    def _launched(self, kind: str, kernel: Kernel, arguments: Sequence[str]) -> str:
        lengths = [length_name(BATCH.size), *(self._length(s) for s in kernel.lengths)]
        passed = [word for name in arguments for word in self._passed(name)]
        return f"kernels.{kernel.name}({', '.join((*lengths, *passed, 'threads'))})"

    def _passed(self, name: str) -> list[str]:
        """Return the address of a tensor and how far its rows lie apart, or a setting."""
        value = self._program.values.get(name)
        if value is None:
            return [name]
        place = f"{name}.data_ptr()"
        if not is_column(value) and len(value.indices) == 1:
            return [place]
        if value in self._program.inputs:
            return [place, f"{name}.stride(0)"]
        return [place, "1" if is_column(value) else self._length(value.indices[1].size)]

    def _memory(self, kind: str, value: Value, *lengths: str) -> str:
        along = ", ".join((*lengths, "1") if kind == "column" else lengths)
        return f"{self._own}.new_empty({along})"

    def _in_place_of(self, product: str) -> str:
        return f"{product}  # in place"

    def _multiplied(self, left: str, right: str, target: Value) -> str:
        spare = self._spare.pop(_lengths(target), "")
        self.taken += [spare] if spare else []
        if right.endswith(".t()") and not spare:  # one call, where turning a matrix is another
            return f"F.linear({left}, {right.removesuffix('.t()')})"
        return f"torch.mm({left}, {right}{f', out={spare}' if spare else ''})"


def length_name(size: Symbol) -> str:
    """Return the name of an axis length in the lines of a pass."""
    return "rows" if size == BATCH.size else str(size)


def lengths(program: Program, lines: Iterable[str]) -> str:
    """Return the line that names the lengths of the axes of a program that the other lines mention."""
    words = set(re.findall(r"\w+", " ".join(lines)))
    found = {length_name(size): text for size, text in sizes(program).items() if length_name(size) in words}
    return f"{', '.join(found)} = {', '.join(found.values())}"


def walked(program: Program, kernels: Iterable[Kernel]) -> list[str]:
    """Return the inputs along whose rows kernels walk, and whose entries must therefore lie side by side."""
    read = {name for kernel in kernels for name in kernel.tensors}
    return [v.name for v in program.inputs if v.name in read and not is_column(v)]


def _lengths(value: Value) -> Lengths:
    return tuple(i.size for i in value.indices)
