"""Loop-invariant code motion: values that do not vary along a row are computed once per row.

For example, with x an entry and peak a scalar of the row:

    y = x/peak          becomes      y_factor = 1/peak,  y = y_factor*x
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import sympy
from sympy import Add, Expr, Indexed, Mul, Symbol

from codegen.ir.program import Pointwise, Value, entries
from codegen.schedule.rows import RowWork, in_batch, is_wide_pointwise
from derive.algebra.index import Index


def hoisted(instructions: Iterable[RowWork], names: Iterable[str]) -> tuple[RowWork, ...]:
    """Return equal instructions whose entries read hoisted scalars of the row; ``names`` are taken."""
    taken = set(names)
    result: list[RowWork] = []
    for instruction in instructions:
        if is_wide_pointwise(instruction):
            hoist = _Hoist(instruction.target, taken)
            instruction = replace(instruction, expression=hoist.walk(instruction.expression))
            result += hoist.scalars
        result.append(instruction)
    return tuple(result)


@dataclass
class _Hoist:
    """Collects the scalars hoisted out of one expression."""

    target: Value
    taken: set[str]
    scalars: list[RowWork] = field(default_factory=list)

    def walk(self, expression: Expr) -> Expr:
        """Return an expression with its loop-invariant parts replaced by names."""
        if not _varies(expression):
            return self._named(expression)
        if isinstance(expression, Indexed) or not expression.args:
            return expression
        if isinstance(expression, Add | Mul):
            parts = sorted(expression.args, key=str)
            still = [a for a in parts if not _varies(a)]
            moving = [self.walk(a) for a in parts if _varies(a)]
            return expression.func(self._named(expression.func(*still)), *moving)
        return expression.func(*(self.walk(a) if isinstance(a, Expr) else a for a in expression.args))

    def _named(self, scalar: Expr) -> Expr:
        """Name a scalar unless it is a number times at most one name."""
        if isinstance(scalar.as_coeff_Mul()[1], Indexed | Symbol) or scalar.is_Rational:
            return scalar
        negative = scalar.could_extract_minus_sign()
        value = Value(self._fresh(), self._row)
        self.scalars.append(Pointwise(value, -scalar if negative else scalar))
        return -value.entry if negative else value.entry

    @property
    def _row(self) -> tuple[Index, ...]:
        return self.target.indices[:1]

    def _fresh(self) -> str:
        stem = f"{self.target.name}_factor"
        name = next(n for n in (stem, *(f"{stem}_{k}" for k in range(2, 99))) if n not in self.taken)
        self.taken.add(name)
        return name


def _varies(expression: Expr) -> bool:
    """Return whether an expression varies along the row; a Piecewise is never split."""
    if isinstance(expression, sympy.Piecewise):
        return True
    return any(len(e.indices) > 1 or not in_batch(e.indices) for e in entries(expression))
