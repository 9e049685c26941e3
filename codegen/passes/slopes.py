"""Derivatives of a scalar expression with respect to one entry, in terms of the value itself if possible.

Then only the value, not its argument, is saved for the backward pass:

    f = sqrt(kappa)/sqrt(E + 1)      f' = -f**3/(2*kappa)
    t = tanh(y)                      t' = 1 - t**2
    e = exp(y - m)                   e' = e
"""

from __future__ import annotations

from functools import lru_cache

import sympy
from sympy import Dummy, Expr, Indexed

from codegen.ir.program import entries
from codegen.lower.functions import printable
from derive.algebra.named import sigmoid

_KINKED = (sympy.Abs, sympy.sign, sympy.Max, sympy.Min, sympy.Heaviside, sympy.Piecewise)
_UNKNOWN = Dummy("a", positive=True)  # shared by all expressions, so that equal ones are solved once


@lru_cache(maxsize=1000)
def slope(expression: Expr, entry: Indexed, value: Indexed) -> Expr:
    """Return ``d expression / d entry``, in terms of ``value`` (which equals ``expression``) alone if possible.

    Bases of roots and denominators are assumed to be positive, as everywhere in the derivation, unless the expression
    contains a sign.
    """
    smooth = not expression.has(*_KINKED)
    assumed = {"positive": True} if smooth else {"real": True}
    unknown = {e: Dummy(f"a{k}", **assumed) for k, e in enumerate(entries(expression))}
    scalar = expression.xreplace(unknown)
    plain = printable(_derivative(scalar, unknown[entry]))
    back = {dummy: e for e, dummy in unknown.items()}
    if scalar == sigmoid(unknown[entry]):
        return value * (1 - value)
    if isinstance(scalar, sympy.exp):
        return value * printable(_derivative(scalar.args[0], unknown[entry])).xreplace(back)
    if smooth and len(unknown) == 1 and not scalar.is_polynomial(unknown[entry]) and _solvable(scalar, unknown[entry]):
        through = _through_value(scalar.xreplace({unknown[entry]: _UNKNOWN}))
        if through is not None:
            return through[1].xreplace({through[0]: value})
    return plain.xreplace(back)


def _derivative(scalar: Expr, unknown: Dummy) -> Expr:
    """Return the derivative away from jumps: at a jump of a sign or step, SymPy's has a delta, which is dropped."""
    return scalar.diff(unknown).replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)


def _solvable(scalar: Expr, unknown: Dummy) -> bool:
    """Whether solving for the argument is fast: the scalar is one root, or one function of a polynomial."""
    roots = [p for p in scalar.atoms(sympy.Pow) if p.has(unknown) and not p.exp.is_Integer]
    functions = [f for f in scalar.atoms(sympy.Function) if f.has(unknown)]
    polynomial = all(f.args[0].is_polynomial(unknown) for f in functions)
    outside = scalar.xreplace(dict.fromkeys(functions, Dummy()))
    if scalar.has(sigmoid, sympy.erf) or (functions and outside.has(unknown)):
        return False
    return len(roots) + len(functions) <= 1 and polynomial


@lru_cache(maxsize=1000)
def _through_value(scalar: Expr) -> tuple[Dummy, Expr] | None:
    """Return a symbol for the value and the derivative in terms of it; None if the value does not determine it."""
    value, unknown = Dummy("value", positive=True), _UNKNOWN
    constants = {c: Dummy(f"c{k}", positive=True) for k, c in enumerate(_constant_sums(scalar, unknown))}
    named = scalar.xreplace(constants)
    try:
        solutions = sympy.solve(sympy.Eq(named, value), unknown)
    except NotImplementedError:
        return None
    if len(solutions) != 1:
        return None
    result = sympy.powsimp(sympy.expand_power_base(sympy.simplify(named.diff(unknown).subs(unknown, solutions[0]))))
    if result.has(unknown) or not result.is_polynomial(value):
        return None
    return value, result.xreplace({dummy: c for c, dummy in constants.items()})


def _constant_sums(scalar: Expr, unknown: Dummy) -> list[Expr]:
    """Return the constant sums, such as ``kappa - 1``, which are positive wherever the map is defined."""
    found = {a for a in scalar.atoms(sympy.Add) if not a.has(unknown)}
    return sorted(found, key=str)
