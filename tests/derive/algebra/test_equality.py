"""Equality beyond the normal form: rational functions and roots; equal pairs are proved equal, near misses are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, exp, sqrt

from derive.algebra.equality import equal, factored
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, tensor
from derive.algebra.normal import normalise
from tests.derive.algebra.brute import environments, value
from tests.derive.algebra.expressions import Case, cases, disguise, random_cases

n = size_symbol("n")
i, j, k = (Index(name, n) for name in "ijk")
x, y, W = tensor("x"), tensor("y"), tensor("W")
kappa = sympy.Symbol("kappa", positive=True)
E, E_renamed = IndexedSum(x[j] ** 2, j), IndexedSum(x[k] ** 2, k)
u, v = IndexedSum(W[i, j] * x[j], j), IndexedSum(W[i, j] * y[j], j)

EQUAL: dict[str, tuple[Expr, Expr]] = {
    "fractions add up": (E / (E + 1) + 1 / (E_renamed + 1), sympy.S.One),
    "a condition solved": ((sqrt(kappa) / sqrt(E + 1)) ** 2 * (E_renamed + 1), kappa),
    "a condition with an offset": ((sqrt(kappa - 1) / sqrt(E)) ** 2 * E_renamed + 1, kappa),
    "a common root": (1 / sqrt(E + 1), sqrt(E_renamed + 1) / (E + 1)),
    "powers of a root": ((E + 1) ** sympy.Rational(3, 2), (E + 1) * sqrt(E_renamed + 1)),
    "a number out of a root": (sqrt(4 * E + 4), 2 * sqrt(E + 1)),
    "the slope of a root": (E / sqrt(E + 1) - sqrt(E + 1), -1 / sqrt(E + 1)),
    "a logistic slope": (exp(-u) / (1 + exp(-u)) ** 2, (1 / (1 + exp(-u))) * (1 - 1 / (1 + exp(-u)))),
    "exponentials multiply": (exp(-2 * u), exp(-u) ** 2),
    "an angle": (sympy.sin(u) ** 2 + sympy.cos(u) ** 2, sympy.S.One),
    "a difference of squares": ((u - v) * (u + v) / (u + v), u - v),
    "roots of two bases": (sqrt(E) * sqrt(E + 1) / sqrt(E_renamed), sqrt(E_renamed + 1)),
}

NOT_EQUAL: dict[str, tuple[Expr, Expr]] = {
    "a sign": (E / (E + 1) - 1 / (E + 1), sympy.S.One),
    "an exponent": (1 / sqrt(E + 1), 1 / (E + 1)),
    "a missing root": (sqrt(kappa) / sqrt(E + 1), kappa / sqrt(E + 1)),
    "an offset": (1 / sqrt(E + 1), 1 / sqrt(E)),
    "a coefficient": ((sqrt(kappa) / sqrt(E + 2)) ** 2 * (E + 1), kappa),
    "an absolute value": (sympy.Abs(x[i]), x[i]),
    "a root of a square": (sqrt((u - v) ** 2), u - v),
    "a root of a product of unknown signs": (sqrt(x[i] * y[j]) * sqrt(x[i] * y[k]), x[i] * sqrt(y[j] * y[k])),
    "another index": (1 / (1 + x[i] ** 2), 1 / (1 + x[j] ** 2)),
    "a sum of squares": (E / (E + 1), IndexedSum(x[j], j) ** 2 / (E + 1)),
    "an exponential": (exp(u + v), exp(u) + exp(v)),
    "a logistic slope off by one": (exp(-u) / (1 + exp(-u)) ** 2, (1 / (1 + exp(-u))) * (2 - 1 / (1 + exp(-u)))),
}


@pytest.mark.parametrize("pair", EQUAL.values(), ids=EQUAL.keys())
def test_identities_are_proved(pair: tuple[Expr, Expr]) -> None:
    assert equal(*pair) and equal(*pair[::-1])


@pytest.mark.parametrize("pair", NOT_EQUAL.values(), ids=NOT_EQUAL.keys())
def test_near_misses_are_not(pair: tuple[Expr, Expr]) -> None:
    assert not equal(*pair) and not equal(*pair[::-1])


CHANGES: list[Callable[[Expr], Expr]] = [
    lambda e: -e,
    lambda e: 2 * e,
    lambda e: e + 1,
    lambda e: e**2,
    lambda e: sum(e.args[1:], sympy.S.Zero) if e.is_Add else e - e / 3,
]


@settings(random_cases, max_examples=50)
@given(case=cases(), change=st.sampled_from(CHANGES), seed=st.integers(0, 99))
def test_what_is_called_equal_has_equal_values(case: Case, change: Callable[[Expr], Expr], seed: int) -> None:
    changed = change(disguise(normalise(case.expression), random.Random(seed)))
    if equal(case.expression, changed):
        for at in environments(case.expression, case.world, most=3):
            assert value(case.expression, at, case.world) == value(changed, at, case.world)


@settings(random_cases, max_examples=30)
@given(case=cases(depth=0))
def test_factoring_keeps_the_value(case: Case) -> None:
    normal = normalise(case.expression)
    shown = factored(normal)
    for at in environments(normal, case.world, most=2):
        assert value(shown, at, case.world) == value(normal, at, case.world)
        assert isinstance(value(shown, at, case.world), Fraction)


def test_terms_in_many_symbols_are_not_factored_as_polynomials(monkeypatch):
    x = sympy.symbols("x0:26")
    long = normalise(sum(x[k] * x[k + 1] * x[0] for k in range(1, 25)))
    monkeypatch.setattr(sympy, "factor", None)
    assert sympy.expand(factored(long) - long) == 0
