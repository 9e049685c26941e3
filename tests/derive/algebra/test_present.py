"""Presented forms equal the normal forms that they replace, and use the right intermediates."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given, settings
from sympy import Expr

from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.forward_map import Definition
from tests.derive.algebra.brute import environments, value
from tests.derive.algebra.expressions import Case, cases, m, n, random_cases

i, j, k, r = (Index(name, n) for name in "ijkr")
c, d = Index("c", m), Index("d", m)
A, x, y, u, q, e = (tensor(name) for name in "Axyuqe")
kappa = sympy.Symbol("kappa", positive=True)


@settings(random_cases, max_examples=30)
@given(case=cases())
def test_what_is_shown_has_the_same_value(case: Case) -> None:
    shown = presentable(normalise(case.expression), {})
    for at in environments(case.expression, case.world, most=2):
        assert value(shown, at, case.world) == value(case.expression, at, case.world), shown


def scope(*definitions: Definition) -> dict[sympy.IndexedBase, Definition]:
    return {definition.base: definition for definition in definitions}


LINEAR = Definition("u", (i,), IndexedSum(y[i, c] * x[c], c))
ENERGY = Definition("q", (r,), IndexedSum(u[k] ** 2, k) + 0 * r)
UNIT = Definition("e", (i,), u[i] / sympy.sqrt(q[i]))

SHOWN: dict[str, tuple[Expr, tuple[Definition, ...], Expr]] = {
    "a linear intermediate": (IndexedSum(y[j, d] * x[d], d), (LINEAR,), u[j]),
    "its square": (IndexedSum(y[j, d] * x[d], d) ** 2, (LINEAR,), u[j] ** 2),
    "not with another tensor": (IndexedSum(A[j, d] * x[d], d), (LINEAR,), IndexedSum(A[j, d] * x[d], d)),
    "a square of a sum, nested": (
        IndexedSum(A[i, j] * A[i, k] * y[j, c] * y[k, c], j, k, c),
        (),
        IndexedSum(IndexedSum(A[i, j] * y[j, c], j) ** 2, c),
    ),
    "a common factor": (kappa * x[c] ** 2 + kappa * x[c], (), kappa * x[c] * (x[c] + 1)),
}


@pytest.mark.parametrize("row", SHOWN.values(), ids=SHOWN.keys())
def test_table(row: tuple[Expr, tuple[Definition, ...], Expr]) -> None:
    expression, definitions, expected = row
    known = scope(*definitions)
    shown = presentable(normalise(expression), known)
    assert equal(shown, expected)
    assert shown.count_ops() <= expected.count_ops()
    assert equal(expand_definitions(shown, known), expand_definitions(expression, known))


def test_a_constant_is_found_through_definitions() -> None:
    """A unit vector has length one; the engine finds this by inserting the vector's definition."""
    norm = Definition("q", (j,), IndexedSum(u[k] ** 2, k) + 0 * j)
    unit = Definition("e", (i,), u[i] * sympy.sqrt(n) / sympy.sqrt(IndexedSum(u[k] ** 2, k)))
    assert presentable(normalise(IndexedSum(e[j] ** 2, j)), scope(unit)) == n
    assert norm.at((i,)) == norm.expression.xreplace({j: i})
