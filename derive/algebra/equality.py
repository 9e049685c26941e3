"""Deciding whether two expressions are equal, beyond the normal form: rational functions and square roots of atoms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sympy
from sympy import Expr, Indexed, Pow, Symbol
from sympy.core.function import Application
from sympy.core.random import rng

from derive.algebra.nodes import Binder
from derive.algebra.normal import normalise

_LARGEST_FACTORED = 300  # operations; beyond it, factoring in many symbols takes minutes
_DEAREST_FACTORED = 5_000  # operations times symbols; likewise
_MOST_FACTORED = 24  # symbols; beyond it, SymPy's dense polynomials nest so deep that even few terms take minutes
_LARGEST = 10_000  # operations; beyond it, bringing a difference over one denominator takes minutes


def equal(left: Expr, right: Expr) -> bool:
    """Return True when ``left - right`` is proved to be zero; False means not proved, never proved different.

    Bases of roots and denominators are taken to be positive, as everywhere in this engine. Differences that are too
    large are not proved.
    """
    difference = normalise(left - right)
    return difference == 0 or (difference.count_ops() <= _LARGEST and _vanishes(difference))


def _vanishes(expression: Expr) -> bool:
    """Decide a rational identity over atoms; square roots become symbols with one side condition each."""
    scalar, _ = as_scalar(expression)
    roots: dict[Symbol, Expr] = {}
    scalar = _name_waves(_name_roots(scalar, roots), roots)
    numerator = _numerator(scalar)
    for root, base in roots.items():
        numerator = _numerator(_reduce(numerator, root, base))
    return bool(numerator == 0)


def _numerator(expression: Expr) -> Expr:
    """Return the numerator, multiplied out, up to a constant factor; a polynomial is its own numerator."""
    if not all(power.exp.is_Integer and power.exp.is_positive for power in expression.atoms(Pow)):
        expression = sympy.numer(sympy.together(expression))
    return sympy.expand(expression)


def as_scalar(expression: Expr) -> tuple[Expr, dict[Symbol, Expr]]:
    """Replace every atom (sum, entry, guard, function) by a positive symbol; return the map back."""
    names: dict[Expr, Symbol] = {}

    def _walk(part: Expr) -> Expr:
        if isinstance(part, sympy.exp):
            count, rest = part.args[0].as_coeff_Mul()
            if count.is_Integer and count != 1:
                return _walk(sympy.exp(rest)) ** count
        if isinstance(part, sympy.sin | sympy.cos):
            return part.func(_walk(part.args[0]))
        opaque = isinstance(part, Binder | Indexed | Application)
        if opaque:
            assumed = {"positive": True} if part.is_nonnegative else {"real": True}
            return names.setdefault(part, sympy.Dummy(f"a{len(names)}", **assumed))
        if not part.args:
            return part
        return part.func(*(_walk(a) for a in part.args))

    scalar = _walk(expression)
    return scalar, {symbol: atom for atom, symbol in names.items()}


def _name_roots(expression: Expr, roots: dict[Symbol, Expr]) -> Expr:
    """Write ``base**(p/2)`` as ``t**p`` with ``t**2 = base``."""
    if expression.is_Pow and expression.exp.is_Rational and expression.exp.q == 2:
        base = _name_roots(expression.base, roots)
        for root, known in roots.items():
            if known == base:
                return root**expression.exp.p
        root = sympy.Dummy(f"t{len(roots)}", positive=True)
        roots[root] = base
        return root**expression.exp.p
    if not expression.args or (isinstance(expression, Pow) and not expression.base.args):
        return expression
    return expression.func(*(_name_roots(a, roots) for a in expression.args))


def _name_waves(expression: Expr, roots: dict[Symbol, Expr]) -> Expr:
    """Write ``cos(a)`` as ``t`` with ``t**2 = 1 - u**2``, where ``u`` is ``sin(a)``."""
    waves = expression.atoms(sympy.sin, sympy.cos)
    for angle in sorted({wave.args[0] for wave in waves}, key=str):
        cosine, sine = sympy.Dummy(f"t{len(roots)}"), sympy.Dummy("sine")
        roots[cosine] = 1 - sine**2
        expression = expression.xreplace({sympy.cos(angle): cosine, sympy.sin(angle): sine})
    return expression


def _reduce(numerator: Expr, root: Symbol, base: Expr) -> Expr:
    """Return the polynomial in ``root`` modulo ``root**2 - base``."""
    polynomial = sympy.Poly(numerator, root)
    return sympy.Add(*(c * base ** (k // 2) * root ** (k % 2) for (k,), c in polynomial.terms()))


def factored(expression: Expr) -> Expr:
    """Return a normal form with common factors pulled out, for reading; for a large one only the content."""
    scalar, atoms = as_scalar(expression)
    operations = scalar.count_ops()
    symbols = len(scalar.free_symbols)
    if operations > _LARGEST_FACTORED or operations * symbols > _DEAREST_FACTORED or symbols > _MOST_FACTORED:
        return sympy.factor_terms(scalar).xreplace(atoms)
    with _same_random_numbers():
        return sympy.factor(scalar).xreplace(atoms)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Give SymPy the same random numbers each time: factoring in many symbols tries random points and may take minutes.

    The state of its generator is restored afterwards.
    """
    state = rng.getstate()
    rng.seed(0)
    try:
        yield
    finally:
        rng.setstate(state)
