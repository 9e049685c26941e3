"""The exact evaluator against the plain one, slopes against differences, and the expressions that it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from sympy import Add, Expr, KroneckerDelta, sqrt

from derive.algebra.index import Index
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within, tensor
from derive.evaluation.evaluate import compiled, evaluate
from derive.evaluation.fields import PRIME, Field, Modular, Ordered, Real
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point
from derive.evaluation.positions import position
from derive.evaluation.reading import field_for
from derive.forward_map import Definition
from tests.derive.algebra.brute import World, derivative, environments, value
from tests.derive.algebra.expressions import Case, cases, m, n, random_cases, t, w, x, y

i, j, k = (Index(name, n) for name in "ijk")
c, d = Index("c", m), Index("d", m)


@dataclass
class Known(Point):
    """A point whose entries are those of a test's world."""

    world: World | None = None

    def draw(self, name: str, indices: tuple[int, ...], positive: bool = False) -> Any:
        assert self.world is not None
        return self.field.constant(rational(self.world.entry(name, indices)))

    def bits(self, name: str, indices: tuple[int, ...]) -> int:
        assert self.world is not None and name == "t"
        return self.world.token(t, indices)


def rational(number: Fraction) -> sympy.Rational:
    return sympy.Rational(number.numerator, number.denominator)


def known(world: World, field: Field, *active: str) -> Known:
    sizes = {symbol: size for symbol, size in world.sizes.items()}
    return Known(world.seed, sizes, field, {}, active=frozenset(active), world=world)


def point(field: Field | None = None, scope: Any = None, seed: int = 0, **sizes: int) -> Point:
    return Point(seed, {n: sizes.get("n", 2), m: sizes.get("m", 3)}, field or Modular(), scope or {})


@settings(random_cases, max_examples=150)
@given(case=cases())
def test_the_value_is_that_of_the_plain_evaluator(case: Case) -> None:
    here = known(case.world, Modular())
    for at in environments(case.expression, case.world, most=3):
        expected = value(case.expression, at, case.world)
        assert evaluate(case.expression, at, here) == here.field.constant(rational(expected))


@settings(random_cases, max_examples=50)
@given(case=cases(depth=0))
def test_the_slope_is_that_of_the_polynomial(case: Case) -> None:
    here = known(case.world, Modular(), "x")
    for at in environments(case.expression, case.world, most=2):
        expected = derivative(case.expression, "x", (0,), at, case.world, half=6)
        slopes = compiled(case.expression)(at, here)[1] or {}
        assert here.field.same(slopes.get(("x", (0,)), 0), here.field.constant(rational(expected)))


@settings(random_cases, max_examples=50)
@given(case=cases(depth=0))
def test_the_real_field_agrees(case: Case) -> None:
    here = known(case.world, Real())
    with here.field.context():
        for at in environments(case.expression, case.world, most=2):
            expected = here.field.constant(rational(value(case.expression, at, case.world)))
            assert here.field.same(evaluate(case.expression, at, here), expected)


def test_an_inert_derivative_is_taken_by_dual_numbers() -> None:
    here = point()
    loss = IndexedSum(x[j] ** 3, j)
    slope = evaluate(PartialDerivative(loss, x[i]), {i: 1}, here)
    assert slope == 3 * evaluate(x[i], {i: 1}, here) ** 2 % PRIME


def test_a_derivative_goes_through_definitions() -> None:
    u = Definition("u", (i,), IndexedSum(y[i, c] * w[c], c))
    here = point(scope={u.base: u})
    slope = evaluate(PartialDerivative(u.base[i] ** 2, w[d]), {i: 1, d: 2}, here)
    assert slope == evaluate(2 * u.base[i] * y[i, d], {i: 1, d: 2}, here)


def test_first_order_in_the_step() -> None:
    eta = sympy.Symbol("eta", positive=True)
    moved = Definition("w'", (c,), w[c] - eta * tensor("h")[c])
    here = point(scope={moved.base: moved})
    first = evaluate(AtZero(moved.base[c] ** 2, eta), {c: 1}, here)
    assert first == evaluate(-2 * w[c] * tensor("h")[c], {c: 1}, here)
    beside = evaluate(eta * AtZero(moved.base[c], eta), {c: 1}, here)  # eta outside is not zero
    assert beside == evaluate(-eta * tensor("h")[c], {c: 1}, here) != 0


@pytest.mark.parametrize(
    "nested",
    [
        PartialDerivative(PartialDerivative(x[i] ** 3, x[i]), x[i]),
        PartialDerivative(x[i] * PartialDerivative(x[i] ** 2, x[i]), x[i]),
        AtZero(PartialDerivative(x[i] ** 3, x[i]), sympy.Symbol("eta", positive=True)),
        PartialDerivative(AtZero(x[i] * sympy.Symbol("eta", positive=True), sympy.Symbol("eta", positive=True)), x[i]),
    ],
)
def test_a_derivative_of_a_derivative_is_refused_not_taken_for_zero(nested: Expr) -> None:
    with pytest.raises(NotEvaluable):
        evaluate(nested, {i: 0}, point())


def test_what_a_guard_excludes_is_not_looked_at() -> None:
    here = point(n=2)
    broken = Divides(2, i) * x[i / 2]
    assert evaluate(broken, {i: 1}, here) == 0
    assert evaluate(broken**2, {i: 1}, here) == 0
    with pytest.raises(NotEvaluable):
        evaluate(x[i / 2], {i: 1}, here)
    assert evaluate(Within(i - 1, n) / (i - 1 + Within(i, n) - 1 + KroneckerDelta(i, 0)), {i: 0}, here) == 0


def test_entries_depend_on_seed_name_and_place_alone() -> None:
    values = {
        (seed, name, place): evaluate(tensor(name)[i], {i: place}, point(seed=seed))
        for seed in (0, 1)
        for name in ("x", "v")
        for place in (0, 1)
    }
    assert len(set(values.values())) == 8
    assert evaluate(x[i], {i: 1}, point(seed=0)) == values[0, "x", 1]


def test_tokens_stay_in_their_vocabulary() -> None:
    small = tensor("t", values=m)
    for size in (1, 2, 3):
        seen = {evaluate(Within(small[i], m), {i: p}, point(n=9, m=size)) for p in range(9)}
        assert seen == {1}
        assert {position(small[i])({i: p}, point(n=9, m=size)) for p in range(9)} <= set(range(size))


@pytest.mark.parametrize("expression", [1 / (x[i] - x[i] + 0 * n + KroneckerDelta(i, 1)), sympy.exp(x[i]), x[i] ** m])
def test_what_has_no_exact_value_is_refused(expression: Expr) -> None:
    with pytest.raises(NotEvaluable):
        evaluate(expression, {i: 0}, point())


def test_no_root_is_taken_in_exact_numbers() -> None:
    """A prime field has two roots of a number or none, without a positive one among them."""
    for field in (Modular(), Ordered()):
        with pytest.raises(NotEvaluable, match="the power 1/2 has no exact value"):
            field.power(4, sympy.Rational(1, 2))
        with pytest.raises(NotEvaluable, match="division by zero"):
            field.power(0, sympy.Integer(-1))


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        (x[i] / (y[i, c] + 3), "exact modulo 2^61-1"),
        (sympy.Max(x[i], y[i, c]) * abs(x[i]), "exact fractions"),
        (sqrt(n) * x[i], "60 digits"),
        (x[i] * sympy.pi, "60 digits"),
        (tensor("u")[i], "60 digits"),
    ],
)
def test_the_numbers_are_those_that_an_expression_needs(expression: Expr, name: str) -> None:
    root = Definition("u", (i,), sqrt(x[i] ** 2 + 1))
    assert field_for([expression], {root.base: root}).name == name


def test_the_real_field_keeps_its_digits_when_it_divides_by_a_size() -> None:
    here = point(Real(), n=3)
    with here.field.context():
        assert here.field.same(evaluate(x[i] / n, {i: 1}, here) * 3, evaluate(x[i], {i: 1}, here))
        assert here.field.same(here.field.power(3, sympy.Integer(-1)) * 3, Decimal(1))


def test_the_real_field_knows_a_zero_that_rounding_has_hidden() -> None:
    """``sum over j, k of (x_j - x_k)`` is zero; it has neither a large inverse nor a root."""
    nothing = IndexedSum(x[j] / 3 - x[k] / 3, j, k)
    here = point(Real(), n=3)
    with here.field.context():
        assert abs(evaluate(nothing, {}, here)) < Decimal(10) ** -50
        for expression in (1 / nothing, sqrt(nothing**2 + Add(nothing, 0)) + 1 / nothing):
            with pytest.raises(NotEvaluable):
                evaluate(expression, {}, here)


def test_the_real_field_refuses_what_is_not_real() -> None:
    here = point(Real())
    with here.field.context():
        for expression in (sqrt(-(x[i] ** 2) - 1), sympy.log(-(x[i] ** 2) - 1), 1 / (x[i] - Add(x[i], 0) + i)):
            with pytest.raises(NotEvaluable):
                evaluate(expression, {i: 0}, here)


FUNCTIONS = {
    "exp": sympy.exp,
    "tanh": sympy.tanh,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "abs": sympy.Abs,
    "atan": sympy.atan,
    "asin": lambda e: sympy.asin(e / 3),
    "acos": lambda e: sympy.acos(e / 3),
    "erf": sympy.erf,
    "log": lambda e: sympy.log(e**2 + 1),
    "max": lambda e: sympy.Max(e, e**3 / 7),
    "min": lambda e: sympy.Min(e, e**3 / 7),
    "root": lambda e: sqrt(e**2 + 1),
    "power": lambda e: (e**2 + 1) ** sympy.Rational(-2, 3),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_values_and_slopes_of_functions(function: Any) -> None:
    """The value against SymPy's, the slope against the central difference: a step of 1e-20 errs by about 1e-40."""
    here = point(Real())
    with here.field.context():
        middle = evaluate(x[i], {i: 1}, here)
        expected = function(x[i]).subs(x[i], sympy.Rational(str(middle))).evalf(50)
        assert abs(evaluate(function(x[i]), {i: 1}, here) - Decimal(str(expected))) < Decimal(10) ** -45
        slope = evaluate(PartialDerivative(function(x[i]), x[i]), {i: 1}, here)
        step = Decimal(10) ** -20

        def at(offset: Decimal) -> Decimal:
            there = point(Real())
            there.memory["x", (1,)] = middle + offset, None
            return evaluate(function(x[i]), {i: 1}, there)

        assert abs((at(step) - at(-step)) / (2 * step) - slope) < Decimal(10) ** -30


@pytest.mark.parametrize("field", [Ordered(), Real()])
def test_a_corner_has_no_slope(field: Field) -> None:
    here = point(field)
    with here.field.context():
        for corner in (abs(x[i] - Add(w[c], 0)), sympy.Max(x[i], w[c])):
            here.memory["x", (0,)] = here.memory["w", (0,)] = here.field.constant(sympy.Integer(2)), None
            assert evaluate(corner, {i: 0, c: 0}, here) in (0, 2)
            here.nudged("x").memory["x", (0,)] = (here.memory["x", (0,)][0], {("x", (0,)): 1})
            with pytest.raises(NotEvaluable, match="a corner"):
                evaluate(PartialDerivative(corner, x[i]), {i: 0, c: 0}, here)


def test_an_unknown_function_is_refused() -> None:
    with pytest.raises(NotEvaluable, match="no rule for the function gamma"):
        evaluate(sympy.gamma(x[i]), {i: 0}, point(Real()))


def test_an_entry_outside_a_tensor_whose_axes_are_known_is_zero() -> None:
    here = Point(0, {n: 2, m: 3}, Modular(), {}, axes={"x": (n,), "t": (n,)})
    assert evaluate(x[i - 1], {i: 1}, here) == evaluate(x[i], {i: 0}, here) != 0
    assert evaluate(x[i - 1], {i: 0}, here) == evaluate(x[i + 1], {i: 1}, here) == 0
    assert evaluate(x[i - 1], {i: 0}, point()) != 0  # without axes, a read that a guard should exclude is noticed
    assert position(t[i + 1])({i: 1}, here) == -1
