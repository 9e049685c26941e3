"""Which axes of a program with convolutions are space, and the roles of a convolution's indices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sympy
from sympy import Expr, Symbol

from codegen.ir.program import Convolve, Program
from derive.algebra.index import Index
from derive.errors import UsageError
from derive.forward_map import BATCH


class Space:
    """Which axes of a program are space, and the layout of its values."""

    def __init__(self, program: Program) -> None:
        links = [link for i in program.instructions if isinstance(i, Convolve) for link in i.links]
        self.kernels = {link.kernel.size for link in links}
        self.sizes = self.kernels | {i.size for link in links for i in (link.long, link.position)}

    def features(self, indices: Iterable[Index]) -> list[Index]:
        """Return the indices of groups and channels."""
        return [i for i in indices if i.size not in self.sizes and i != BATCH]

    def is_narrow(self, indices: Iterable[Index]) -> bool:
        """Return whether a value along these indices has one number per position, or one per image."""
        own = tuple(indices)
        return BATCH in own and len(self.features(own)) < 2

    def is_kernel(self, indices: Iterable[Index]) -> bool:
        """Return whether a value along these indices is laid out as a weight."""
        return any(i.size in self.kernels for i in indices)

    def counted(self, expression: Expr, entries: Symbol) -> Expr:
        """Replace the product of a filter's lengths by ``entries``; raise ``UsageError`` if a single length remains."""
        present = [s for s in sorted(self.kernels, key=str) if s in expression.free_symbols]
        if not present:
            return expression
        counted = expression.subs(present[0], entries / sympy.Mul(*present[1:]))
        if counted.free_symbols & self.kernels:
            raise UsageError(f"{expression} uses a single length of the filter, but code exists only for their product")
        return counted


def role_of(instruction: Convolve, indices: Sequence[Index]) -> str:
    """Return the role of the index of a convolution's first link that is among these."""
    places = zip(instruction.links[0].indices, ("long", "position", "kernel"), strict=True)
    return next(place for index, place in places if index in indices)


def lengths_of(program: Program, source: str) -> dict[Symbol, str]:
    """Return code that reads sizes off the shape of an input; empty if the program does not read it."""
    found = next((v for v in program.inputs if v.name == source), None)
    return (
        {}
        if found is None
        else {i.size: f"{source}.shape[{k}]" for k, i in enumerate(found.indices) if i.size.is_Symbol}
    )
