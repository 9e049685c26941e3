"""The Python around the kernels of the CPU: calls of them, and of torch, with as little as possible in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sympy import Expr

from codegen.program import Program, Value
from codegen.targets.cuda.kernels import Kernel
from codegen.targets.cuda.schedule import Rows
from codegen.targets.cuda.wrappers import StepPrinter

Lengths = tuple[Expr, ...]


class HostPrinter(StepPrinter):
    """Prints steps where the type of the input is that of all that is made of it.

    ``own`` names a tensor in scope that has this type; ``spare`` are matrices in scope that are read no more, by their
    lengths: the first product that fits takes the memory of one.
    """

    def __init__(self, program: Program, prefix: str, own: str, spare: Mapping[Lengths, str] | None = None) -> None:
        super().__init__(program, prefix, own)
        self._spare = dict(spare or {})

    def scratch(self) -> dict[Lengths, str]:
        """Return the matrices that these lines make and that hold no result, by their lengths."""
        made = [self._program.values[n] for s in self._steps if isinstance(s, Rows) for n in s.outputs]
        return {_lengths(v): v.name for v in made if len(v.indices) == 2 and v.name not in self._program.outputs}

    def _launched(self, kind: str, kernel: Kernel, arguments: Sequence[str]) -> str:
        return f'kernels.run("{kernel.name}", {self._shape(kernel)}, {", ".join(arguments)})'

    def _memory(self, kind: str, value: Value, *lengths: str) -> str:
        along = ", ".join((*lengths, "1") if kind == "column" else lengths)
        return f"{self._own}.new_empty({along})"

    def _in_place_of(self, product: str) -> str:
        return f"{product}  # in place"

    def _multiplied(self, left: str, right: str, target: Value) -> str:
        spare = self._spare.pop(_lengths(target), "")
        return f"torch.mm({left}, {right}{f', out={spare}' if spare else ''})"


def _lengths(value: Value) -> Lengths:
    return tuple(i.size for i in value.indices)
