"""A forward scale that neither overflows nor underflows: divide by a magnitude before squaring.

    E = sum x**2,  f = sqrt(kappa)/sqrt(E + 1)
    peak = magnitude of x,  q = sum (x/peak)**2,  f = sqrt(kappa)/(peak*sqrt(q + 1/peak**2))

Both forms are equal for every positive peak, so derivatives treat the peak as a constant. A scale that is infinite at
E = 0 and vanishes at infinity (the normalisers) gets the value 0 at E = 0: a zero row has no direction, so its weight
part is zero.
"""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Dummy, Expr, Pow

from codegen.ir.program import Contract, Instruction, Magnitude, Pointwise, Program, Value, name_of
from codegen.passes.scaled_input import squared_length
from derive.errors import UsageError


def range_safe(program: Program, scale: str) -> Program:
    """Return the program that computes only ``scale``, a function of a sum of squares, for inputs of any magnitude.

    Raises ``UsageError`` if it is no such function, or has a singularity without a rule.
    """
    squares = squared_length(program, scale)
    if squares is None:
        raise UsageError(
            f"{program.name!r}: {scale!r} is not a function of one sum of squares of an input; no safe form is known"
        )
    producer = program.producers[scale]
    assert isinstance(producer, Pointwise)
    source = program.values[name_of(squares.operands[0])]
    row = squares.target.indices
    peak, ratio, total = Value("peak", row), Value("y", squares.operands[0].indices), Value("q", row)
    instructions: list[Instruction] = [
        Magnitude(peak, squares.operands[0], squares.summed),
        Pointwise(ratio, squares.operands[0] / peak.entry),
        Contract(total, (ratio.entry, ratio.entry), squares.summed, squares.equation),
    ]
    expression = _factored_out(producer.expression, squares.target.entry, peak.entry, total.entry)
    if singular_at_zero(producer.expression, squares.target.entry):
        safe = Value("q_or_inf", row)
        at_zero = sympy.Piecewise((sympy.oo, sympy.Eq(total.entry, 0)), (total.entry, True))
        instructions.append(Pointwise(safe, at_zero))
        expression = expression.xreplace({total.entry: safe.entry})
    instructions.append(replace(producer, expression=expression))
    whole = replace(program, inputs=(source,), instructions=tuple(instructions), outputs=(scale,))
    return whole.restricted(f"{program.name}/scale", (scale,))


def _factored_out(expression: Expr, squares: Expr, peak: Expr, total: Expr) -> Expr:
    """Substitute ``E = peak**2 q`` and factor the peak out of every power of a sum that is linear in E."""
    if expression == squares:
        return peak**2 * total
    if isinstance(expression, Pow) and _linear(expression.base, squares) and not expression.exp.has(squares):
        inner = sympy.expand(expression.base.xreplace({squares: peak**2 * total}) / peak**2)
        return peak ** (2 * expression.exp) * inner**expression.exp
    if not expression.has(squares):
        return expression
    return expression.func(*(_factored_out(a, squares, peak, total) for a in expression.args))


def _linear(expression: Expr, squares: Expr) -> bool:
    return bool(expression.is_polynomial(squares)) and sympy.degree(expression, squares) == 1


def singular_at_zero(expression: Expr, squares: Expr) -> bool:
    """Return whether the scale is infinite at zero; raise ``UsageError`` if it is and does not vanish at infinity."""
    length = Dummy("E", positive=True)
    scalar = expression.xreplace({squares: length})
    constants = {
        c: Dummy("c", positive=True) for c in (*scalar.atoms(sympy.Add), *scalar.free_symbols) if not c.has(length)
    }
    scalar = scalar.xreplace(constants)
    if sympy.limit(scalar, length, 0, "+") != sympy.oo:
        return False
    if sympy.limit(scalar, length, sympy.oo) != 0:
        raise UsageError(
            f"the scale {expression} is singular at zero and does not vanish at infinity: no value at zero is known"
        )
    return True
