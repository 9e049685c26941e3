"""Choose the type in which each value of a program is computed and stored, so that no intermediate leaves its range.

float32 has the range 1e-38 to 3e38. Inputs may be as small as 1e-30 and as large as 1e30, so a value that grows like
the square of an input does not fit, while its root does. How fast a value grows is read off the program: if all inputs
are scaled by t, its *degree* is its exponent of t as t goes to zero, and as t goes to infinity.

    E = sum x**2                 degree (2, 2)     wide
    f = 1/sqrt(E + 1)            degree (0, -1)    wide: one number per sample, computed from a wide one
    z = f*(W x + b)              degree (0, 0)     own: computed in the wide type, stored in the input's
    t = x**2, s = sum t W        degree (2, 2)     wide, and so is the contraction

Wide is float64 for every type of input. The degree is an upper bound: terms that cancel are counted too.

Not supported: overflow of exponentials; a function that grows faster than any power has degree (0, 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import sympy
from sympy import Add, Expr, Indexed, Mul, Pow

from codegen.ir.program import (
    Contract,
    Convolve,
    Gather,
    Instruction,
    Mask,
    Peak,
    Pointwise,
    Program,
    Scatter,
    name_of,
)
from derive.algebra.index import Index
from derive.forward_map import BATCH

Degree = tuple[Expr, Expr]

FLAT: Degree = (sympy.S.Zero, sympy.S.Zero)
LINEAR: Degree = (sympy.S.One, sympy.S.One)
_BOUNDED = (sympy.tanh, sympy.atan, sympy.sin, sympy.erf)


@dataclass(frozen=True)
class Types:
    """The types of a program's values.

    ``wide`` names the values stored in float64, ``computed_wide`` the values computed in float64; ``degrees`` holds the
    degree of every value.
    """

    wide: frozenset[str]
    computed_wide: frozenset[str]
    degrees: Mapping[str, Degree] = field(default_factory=dict)


def choose_types(
    program: Program, real_inputs: Iterable[str], axes: int, given: Types | None = None, own: Iterable[str] = ()
) -> Types:
    """Return the types of a program.

    Args:
        program: the program.
        real_inputs: the layer's inputs of unknown magnitude; parameters and cotangents count as moderate (degree 0).
        axes: the number of axes of the layer's output; values with fewer axes are small and may be wide.
        given: the types of the program that computed this one's inputs, as the forward pass does for the backward pass.
        own: results that always have the input's type, since they are returned to the caller.
    """
    reader = _Reader(program, frozenset(real_inputs), axes, given, frozenset(own))
    for instruction in program.instructions:
        reader.read(instruction)
    return Types(frozenset(reader.wide), frozenset(reader.computed_wide), reader.degrees)


class _Reader:
    """Visits the instructions of a program in order and records degrees and types."""

    def __init__(
        self, program: Program, inputs: frozenset[str], axes: int, given: Types | None, own: frozenset[str]
    ) -> None:
        self._axes, self._own = axes, own
        self.wide: set[str] = set()
        self.computed_wide: set[str] = set()
        self.degrees: dict[str, Degree] = {}
        for value in program.inputs:
            known = given.degrees.get(value.name) if given and value.name not in inputs else None
            self.degrees[value.name] = known or (LINEAR if value.name in inputs else FLAT)
            if given and value.name in given.wide:
                self.wide.add(value.name)

    def read(self, instruction: Instruction) -> None:
        """Record the degree and types of an instruction's target."""
        name, indices = instruction.target.name, instruction.target.indices
        degree = self._degree(instruction)
        self.degrees[name] = degree
        fits = in_range(degree)
        reads_wide = any(name_of(e) in self.wide for e in instruction.reads)
        few = BATCH in indices and len(indices) < self._axes
        if isinstance(instruction, Pointwise):
            if reads_wide or not fits or self._leaves_range(instruction.expression):
                self.computed_wide.add(name)
        elif isinstance(instruction, Contract | Convolve):
            if not fits or (few and reads_wide):
                self.computed_wide.add(name)
        elif reads_wide:
            self.computed_wide.add(name)
        # A value that grows as fast as the input fits, but a sum of such values leaves the range near its end: where it
        # is computed in the wide type anyway, it stays there.
        at_the_end = degree[1] == 1
        if name in self.computed_wide and (few or not fits or at_the_end) and name not in self._own:
            self.wide.add(name)

    def _degree(self, instruction: Instruction) -> Degree:
        if isinstance(instruction, Contract | Convolve):
            return _product([self.degrees[name_of(o)] for o in instruction.operands])
        if isinstance(instruction, Gather | Scatter | Peak):
            return self.degrees[name_of(instruction.operand)]
        if isinstance(instruction, Pointwise):
            return degree_of(instruction.expression, self.degrees)
        return FLAT if isinstance(instruction, Mask) else LINEAR

    def _leaves_range(self, expression: Expr) -> bool:
        """Whether any part of an expression leaves the range of the input's type."""
        parts = (p for p in sympy.preorder_traversal(expression) if isinstance(p, Mul | Pow | Add))
        return any(not in_range(degree_of(p, self.degrees)) for p in parts)


def in_range(degree: Degree) -> bool:
    """Return whether a value of that degree stays in the range of float32 for inputs of 1e-30 to 1e30."""
    return all(-1 <= d <= 1 for d in degree)


def _product(degrees: Iterable[Degree]) -> Degree:
    pairs = list(degrees)
    return (Add(*(low for low, _ in pairs)), Add(*(high for _, high in pairs)))


def degree_of(expression: Expr, degrees: Mapping[str, Degree]) -> Degree:
    """Return the degree of an expression of entries, each of known degree."""
    if isinstance(expression, Indexed):
        return degrees[name_of(expression)]
    if not expression.has(Indexed) or isinstance(expression, Index):
        return FLAT
    if isinstance(expression, sympy.Piecewise):
        usual = [value for value, condition in expression.args if not isinstance(condition, sympy.Eq)]
        return _sum([degree_of(value, degrees) for value in usual])  # an equality holds only at single points
    inner = [degree_of(a, degrees) for a in expression.args]
    if isinstance(expression, Add | sympy.Max | sympy.Min):
        return _sum(inner)
    if isinstance(expression, Mul):
        return _product(inner)
    if isinstance(expression, Pow) and expression.exp.is_number and expression.exp.is_real:
        return (inner[0][0] * expression.exp, inner[0][1] * expression.exp)
    if isinstance(expression, sympy.Abs):
        return inner[0]
    if isinstance(expression, _BOUNDED):
        return (sympy.Max(0, inner[0][0]), sympy.S.Zero)
    return FLAT


def _sum(degrees: Iterable[Degree]) -> Degree:
    """Return the degree of a sum: the lowest power dominates at zero, the highest at infinity."""
    pairs = list(degrees)
    return (sympy.Min(*(low for low, _ in pairs)), sympy.Max(*(high for _, high in pairs)))
