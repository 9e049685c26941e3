"""Which axes of a program with convolutions are space, and what the indices of a convolution stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sympy
from sympy import Expr, Symbol

from codegen.ir.program import Convolve, Program
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH


class Space:
    """Which axes of a program are space, and where its values lie in a tensor."""

    def __init__(self, program: Program) -> None:
        links = [link for i in program.instructions if isinstance(i, Convolve) for link in i.links]
        self.kernels = {link.kernel.size for link in links}
        self.sizes = self.kernels | {i.size for link in links for i in (link.long, link.position)}

    def features(self, indices: Iterable[Index]) -> list[Index]:
        """Return the indices of groups and channels."""
        return [i for i in indices if i.size not in self.sizes and i != BATCH]

    def is_narrow(self, indices: Iterable[Index]) -> bool:
        """Return whether a value along these indices holds one number a position, or one an image."""
        own = tuple(indices)
        return BATCH in own and len(self.features(own)) < 2

    def is_kernel(self, indices: Iterable[Index]) -> bool:
        """Return whether a value along these indices is laid out as a weight."""
        return any(i.size in self.kernels for i in indices)

    def counted(self, expression: Expr, entries: Symbol) -> Expr:
        """Write the product of all lengths of a kernel as one number; raise ``UsageError`` where one stands alone."""
        present = [s for s in sorted(self.kernels, key=str) if s in expression.free_symbols]
        if not present:
            return expression
        counted = expression.subs(present[0], entries / sympy.Mul(*present[1:]))
        if counted.free_symbols & self.kernels:
            raise UsageError(f"{expression} needs one length of a kernel; only their product is known")
        return counted


def role_of(instruction: Convolve, indices: Sequence[Index]) -> str:
    """Return which of the indices of a convolution's first link is among these."""
    places = zip(instruction.links[0].indices, ("long", "position", "kernel"), strict=True)
    return next(place for index, place in places if index in indices)


def lengths_of(program: Program, source: str) -> dict[Symbol, str]:
    """Return how sizes are read off the shape of an input, in code; none where the program does not read it."""
    found = next((v for v in program.inputs if v.name == source), None)
    return (
        {}
        if found is None
        else {i.size: f"{source}.shape[{k}]" for k, i in enumerate(found.indices) if i.size.is_Symbol}
    )
