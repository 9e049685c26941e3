"""Index expressions at a point: the affine form against SymPy's substitution, and expressions that are not affine."""

from __future__ import annotations

from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as some
from sympy import Expr

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, PartialDerivative, tensor
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import Modular
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point
from derive.evaluation.positions import position
from derive.forward_map import Definition

n, m = size_symbol("n"), size_symbol("m")
pad = sympy.Symbol("P", integer=True, nonnegative=True)
i, j = Index("i", n), Index("j", m)
x, W, u, v = (tensor(name) for name in ("x", "W", "u", "v"))

leaves = some.sampled_from([i, j, n, m, pad, *map(sympy.Integer, (-2, 0, 1, 3)), sympy.Rational(1, 2), 1 / n, m**2])
positions = some.recursive(
    leaves,
    lambda inner: some.tuples(some.sampled_from([sympy.Add, sympy.Mul]), inner, inner).map(lambda t: t[0](*t[1:])),
    max_leaves=7,
)


def point(scope: tuple[Definition, ...] = (), **sizes: int) -> Point:
    values = {n: sizes.get("n", 2), m: sizes.get("m", 3), pad: sizes.get("P", 1)}
    return Point(0, values, Modular(), {d.base: d for d in scope})


@settings(max_examples=150, deadline=None)
@given(positions, some.tuples(*[some.integers(1, 4)] * 3), some.tuples(*[some.integers(0, 3)] * 2))
def test_the_value_is_that_of_substitution(expression: Expr, sizes: tuple[int, ...], at: tuple[int, ...]) -> None:
    here = point(n=sizes[0], m=sizes[1], P=sizes[2])
    numbers = map(sympy.Integer, (*sizes, *at))
    expected = expression.xreplace(dict(zip((n, m, pad, i, j), numbers, strict=True)))
    assert position(expression)({i: at[0], j: at[1]}, here) == Fraction(int(expected.p), int(expected.q))


def test_one_expression_has_another_form_at_another_point() -> None:
    where = position(sympy.expand((m * i - pad) / 2))
    assert where({i: 3}, point(m=4, P=2)) == 5
    assert where({i: 3}, point(m=3, P=2)) == Fraction(7, 2)


def test_a_product_of_indices_is_no_affine_map() -> None:
    assert position(i * j + 1)({i: 2, j: 3}, point()) == 7


def test_what_is_no_index_expression_is_refused() -> None:
    with pytest.raises(NotEvaluable, match="not an index expression"):
        position(sympy.sin(i))


def test_a_nudge_reaches_what_is_made_of_the_nudged_tensor_and_nothing_else() -> None:
    """``v = sum (W u)`` with ``u = x^2``: by W through v, by x through both, each against the slope written out."""
    made = (Definition("u", (j,), x[j] ** 2), Definition("v", (i,), IndexedSum(W[i, j] * u[j], j)))
    here, at = point(made), {i: 1, j: 2}
    assert {name for name in "xWuv" if here.nudged("W").home(name) is here} == {"x", "u"}
    assert {name for name in "xWuv" if here.nudged("x").home(name) is here} == {"W"}
    for variable, slope in ((W[i, j], x[j] ** 2), (x[j], 2 * W[i, j] * x[j])):
        assert evaluate(PartialDerivative(v[i], variable), at, here) == evaluate(slope, at, here)
    assert evaluate(PartialDerivative(v[i], W[i, j]), at, here) != evaluate(u[j] + 1, at, here)
