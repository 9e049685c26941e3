"""Derivatives in terms of the value, if the value determines the argument."""

import pytest
import sympy

from codegen.passes.slopes import slope
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import tensor

s = Index("s", size_symbol("B"))
E, p, f = (tensor(n)[s] for n in "Epf")
kappa = sympy.Symbol("kappa", positive=True)

CASES = [
    (sympy.sqrt(kappa) / sympy.sqrt(E + 1), -(f**3) / (2 * kappa)),
    (sympy.sqrt(kappa - 1) / sympy.sqrt(E), -(f**3) / (2 * (kappa - 1))),
    (sympy.exp(E), f),
    (3 * E**2, 6 * E),
    (E * p, p),
    (sympy.sin(E), sympy.cos(E)),
    (sympy.Integer(2) * E, sympy.Integer(2)),
]


@pytest.mark.parametrize(("expression", "expected"), CASES)
def test_slope(expression, expected):
    assert sympy.simplify(slope(expression, E, f) - expected) == 0


@pytest.mark.parametrize(("expression", "expected"), CASES[:4])
def test_the_form_through_the_value_has_the_same_value(expression, expected):
    at = {E: sympy.Float("0.7"), kappa: sympy.Float("2.5")}
    value = expression.subs(at)
    assert abs(slope(expression, E, f).subs({f: value}).subs(at) - expression.diff(E).subs(at)) < 1e-12
