"""The value of a scale at energy zero: its limit if that is finite, else zero.

    f = sqrt(kappa)*sin(sqrt(E))/sqrt(E)      at E = 0: sqrt(kappa), the limit
    f = sqrt(kappa - 1)/sqrt(E)               at E = 0: 0; a zero sample has no direction, so its weight part is zero

Limits are taken along a ray, E = r**2. Other values do not change. The formula is never evaluated at zero, and
neither is its derivative.
"""

from __future__ import annotations

from dataclasses import replace

import sympy
from sympy import Add, Expr, Indexed, Mul, Piecewise, Pow, Symbol

from codegen.ir.program import Instruction, Pointwise, Program, Value, entries, name_of
from derive.errors import UsageError


def finite_at_zero(program: Program, energy: str) -> Program:
    """Return the program with all functions of the value ``energy`` made finite at energy zero.

    Raises ``UsageError`` if a limit cannot be found.
    """
    if energy not in program.values:
        return program
    safe = _unused(program, f"{energy}_safe")
    value = program.values[energy]
    definition = Piecewise((1, sympy.Eq(value.entry, 0)), (value.entry, True))
    guarded = Pointwise(Value(safe, value.indices), definition)
    instructions: list[Instruction] = [] if energy in program.producers else [guarded]
    for instruction in program.instructions:
        if isinstance(instruction, Pointwise):
            expression = _guarded(instruction.expression, energy, safe)
            instruction = replace(instruction, expression=expression)
        instructions.append(instruction)
        if instruction.target.name == energy:
            instructions.append(guarded)
    return replace(program, instructions=tuple(instructions)).restricted(program.name, program.outputs)


def at_zero(expression: Expr, energy: Expr) -> Expr | None:
    """Return the value of a function of the energy at zero: its limit, or 0; None if it is defined and smooth there."""
    r = Symbol("r", positive=True)
    rough = any(p.base == energy and not (p.exp.is_Integer and p.exp > 0) for p in expression.atoms(Pow))
    along = expression.xreplace({energy: r**2})
    if not rough and _finite(along.xreplace({r: sympy.S.Zero})):
        return None
    limit = limit_at_zero(sympy.powdenest(along, force=True), r)
    return limit if _finite(limit) else sympy.S.Zero


def limit_at_zero(expression: Expr, r: Expr) -> Expr:
    """Return the limit of a function as r falls to zero, infinite or not; raise ``UsageError`` if none is known."""
    failed = f"no limit of {expression} is known as {r} falls to zero; write the angle in another form"
    try:
        limit = sympy.limit(without_kinks(expression, r), r, 0, "+")
    except (NotImplementedError, ValueError, TypeError) as problem:
        raise UsageError(failed) from problem
    if limit.has(sympy.Limit, sympy.AccumBounds, sympy.nan, r):
        raise UsageError(failed)
    return limit


def without_kinks(expression: Expr, r: Expr) -> Expr:
    """Replace absolute values, maxima and steps by their branch at small r."""

    def positive(part: Expr) -> bool:
        """Return whether a part is non-negative at small r; raise ValueError if that is not known."""
        lead = part.as_leading_term(r)
        if lead.is_nonnegative or lead.is_nonpositive:
            return bool(lead.is_nonnegative)
        raise ValueError(f"the sign of {part} at small {r} is not known")

    def walk(part: Expr) -> Expr:
        """Return a part without absolute values, signs and steps."""
        if not part.args:
            return part
        arguments = [walk(a) for a in part.args]
        if isinstance(part, sympy.Abs):
            return arguments[0] if positive(arguments[0]) else -arguments[0]
        if isinstance(part, sympy.sign | sympy.Heaviside):
            return sympy.S.One if positive(arguments[0]) else sympy.S.Zero - isinstance(part, sympy.sign)
        if isinstance(part, sympy.Max):
            largest = arguments[0]
            for other in arguments[1:]:
                largest = largest if positive(largest - other) else other
            return largest
        return part.func(*arguments)

    return walk(expression)


def _finite(value: Expr) -> bool:
    return not value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _guarded(expression: Expr, energy: str, safe: str) -> Expr:
    """Guard the largest subexpressions that are functions of the energy alone."""
    read = entries(expression)
    names = {name_of(e) for e in read}
    if energy not in names or isinstance(expression, Indexed):
        return expression
    if len(read) == 1:
        value = at_zero(expression, read[0])
        if value is None:
            return expression
        away = expression.xreplace({read[0]: Value(safe, tuple(read[0].indices)).entry})
        return Piecewise((value, sympy.Eq(read[0], 0)), (away, True))
    if isinstance(expression, Mul):
        alone = Mul(*(a for a in expression.args if {name_of(e) for e in entries(a)} <= {energy}))
        rest = [a for a in expression.args if not {name_of(e) for e in entries(a)} <= {energy}]
        return Mul(_guarded(alone, energy, safe), *(_guarded(a, energy, safe) for a in rest))
    if isinstance(expression, Add):
        return Add(*(_guarded(a, energy, safe) for a in expression.args))
    return expression.func(*(_guarded(a, energy, safe) for a in expression.args))


def _unused(program: Program, stem: str) -> str:
    name = stem
    while name in program.values:
        name += "_"
    return name
