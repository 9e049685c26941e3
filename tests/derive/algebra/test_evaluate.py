"""The exact evaluator against the plain one, slopes against differences, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import pytest
import sympy
from hypothesis import given, settings
from sympy import Add, Expr, KroneckerDelta, sqrt

from derive.algebra.evaluate import Point, evaluate, position
from derive.algebra.fields import PRIME, Modular, NotEvaluable, Real
from derive.algebra.index import Index
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within, tensor
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


def known(world: World, field: Modular | Real, perturbed: Any = None) -> Known:
    sizes = {symbol: size for symbol, size in world.sizes.items()}
    return Known(world.seed, sizes, field, {}, perturbed, world=world)


def point(field: Modular | Real | None = None, scope: Any = None, seed: int = 0, **sizes: int) -> Point:
    return Point(seed, {n: sizes.get("n", 2), m: sizes.get("m", 3)}, field or Modular(), scope or {})


@settings(random_cases, max_examples=500)
@given(case=cases())
def test_the_value_is_that_of_the_plain_evaluator(case: Case) -> None:
    here = known(case.world, Modular())
    for at in environments(case.expression, case.world, most=3):
        expected = value(case.expression, at, case.world)
        assert evaluate(case.expression, at, here)[0] == here.field.constant(rational(expected))


@settings(random_cases, max_examples=100)
@given(case=cases(depth=0))
def test_the_slope_is_that_of_the_polynomial(case: Case) -> None:
    here = known(case.world, Modular(), ("x", (0,)))
    for at in environments(case.expression, case.world, most=2):
        expected = derivative(case.expression, "x", (0,), at, case.world, half=6)
        assert evaluate(case.expression, at, here)[1] == here.field.constant(rational(expected))


@settings(random_cases, max_examples=50)
@given(case=cases(depth=0))
def test_the_real_field_agrees(case: Case) -> None:
    here = known(case.world, Real())
    with here.field.precision():
        for at in environments(case.expression, case.world, most=2):
            expected = here.field.constant(rational(value(case.expression, at, case.world)))
            assert here.field.same(evaluate(case.expression, at, here)[0], expected)


def test_an_inert_derivative_is_taken_by_dual_numbers() -> None:
    here = point()
    loss = IndexedSum(x[j] ** 3, j)
    slope = evaluate(PartialDerivative(loss, x[i]), {i: 1}, here)[0]
    assert slope == 3 * evaluate(x[i], {i: 1}, here)[0] ** 2 % PRIME


def test_a_derivative_goes_through_definitions() -> None:
    u = Definition("u", (i,), IndexedSum(y[i, c] * w[c], c))
    here = point(scope={u.base: u})
    slope = evaluate(PartialDerivative(u.base[i] ** 2, w[d]), {i: 1, d: 2}, here)[0]
    assert slope == evaluate(2 * u.base[i] * y[i, d], {i: 1, d: 2}, here)[0]


def test_first_order_in_the_step() -> None:
    eta = sympy.Symbol("eta", positive=True)
    moved = Definition("w'", (c,), w[c] - eta * tensor("h")[c])
    here = point(scope={moved.base: moved})
    first = evaluate(AtZero(moved.base[c] ** 2, eta), {c: 1}, here)[0]
    assert first == evaluate(-2 * w[c] * tensor("h")[c], {c: 1}, here)[0]
    beside = evaluate(eta * AtZero(moved.base[c], eta), {c: 1}, here)[0]  # eta outside is not zero
    assert beside == evaluate(-eta * tensor("h")[c], {c: 1}, here)[0] != 0


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
    assert evaluate(broken, {i: 1}, here)[0] == 0
    assert evaluate(broken**2, {i: 1}, here)[0] == 0
    with pytest.raises(NotEvaluable):
        evaluate(x[i / 2], {i: 1}, here)
    assert evaluate(Within(i - 1, n) / (i - 1 + Within(i, n) - 1 + KroneckerDelta(i, 0)), {i: 0}, here)[0] == 0


def test_entries_depend_on_seed_name_and_place_alone() -> None:
    values = {
        (seed, name, place): evaluate(tensor(name)[i], {i: place}, point(seed=seed))[0]
        for seed in (0, 1)
        for name in ("x", "v")
        for place in (0, 1)
    }
    assert len(set(values.values())) == 8
    assert evaluate(x[i], {i: 1}, point(seed=0))[0] == values[0, "x", 1]


def test_tokens_stay_in_their_vocabulary() -> None:
    small = tensor("t", values=m)
    for size in (1, 2, 3):
        seen = {evaluate(Within(small[i], m), {i: p}, point(n=9, m=size))[0] for p in range(9)}
        assert seen == {1}
        assert {position(small[i])({i: p}, point(n=9, m=size)) for p in range(9)} <= set(range(size))


def test_roots_modulo_the_prime_are_multiplicative() -> None:
    field = Modular()
    squares = [field.random(seed, positive=True) for seed in (3**40, 5**30, 7**25)]
    half = sympy.Rational(1, 2)
    for a in squares:
        assert field.power(a, half) ** 2 % PRIME == a
        for b in squares:
            assert field.power(a * b % PRIME, half) == field.power(a, half) * field.power(b, half) % PRIME
    assert field.power(4, half) in (2, PRIME - 2)
    assert field.power(4, -half) * field.power(4, half) % PRIME == 1


@pytest.mark.parametrize("expression", [1 / (x[i] - x[i] + 0 * n + KroneckerDelta(i, 1)), sympy.exp(x[i]), x[i] ** m])
def test_what_has_no_exact_value_is_refused(expression: Expr) -> None:
    with pytest.raises(NotEvaluable):
        evaluate(expression, {i: 0}, point())


def test_no_root_modulo_the_prime_is_refused() -> None:
    with pytest.raises(NotEvaluable, match="not a square"):
        Modular().power(PRIME - 1, sympy.Rational(1, 2))
    with pytest.raises(NotEvaluable, match="division by zero"):
        Modular().power(0, sympy.Integer(-1))
    with pytest.raises(NotEvaluable, match="no exact power"):
        Modular().power(2, sympy.Rational(1, 3))


def test_the_real_field_keeps_its_digits_when_it_divides_by_a_size() -> None:
    here = point(Real(), n=3)
    with here.field.precision():
        assert here.field.same(evaluate(x[i] / n, {i: 1}, here)[0] * 3, evaluate(x[i], {i: 1}, here)[0])
        assert here.field.same(here.field.power(3, sympy.Integer(-1)) * 3, mpmath.mpf(1))


def test_the_real_field_knows_a_zero_that_rounding_has_hidden() -> None:
    """``sum over j, k of (x_j - x_k)`` is zero; its inverse is no large number, nor has it a root."""
    nothing = IndexedSum(x[j] / 3 - x[k] / 3, j, k)
    here = point(Real(), n=3)
    with here.field.precision():
        assert abs(evaluate(nothing, {}, here)[0]) < mpmath.mpf(10) ** -50
        for expression in (1 / nothing, sqrt(nothing**2 + Add(nothing, 0)) + 1 / nothing):
            with pytest.raises(NotEvaluable):
                evaluate(expression, {}, here)


def test_the_real_field_refuses_what_is_not_real() -> None:
    here = point(Real())
    with here.field.precision():
        for expression in (sqrt(-(x[i] ** 2) - 1), sympy.log(-(x[i] ** 2) - 1), 1 / (x[i] - Add(x[i], 0) + i)):
            with pytest.raises(NotEvaluable):
                evaluate(expression, {i: 0}, here)


FUNCTIONS = [sympy.exp, sympy.tanh, sympy.sin, sympy.cos, sympy.Abs, sympy.atan, lambda e: sympy.log(e**2 + 1)]


@pytest.mark.parametrize("function", FUNCTIONS, ids=["exp", "tanh", "sin", "cos", "abs", "atan", "log"])
def test_slopes_of_functions(function: Any) -> None:
    """Against the central difference at 60 digits: the error of a step of 1e-20 is about 1e-40."""
    here = point(Real())
    with here.field.precision():
        slope = evaluate(PartialDerivative(function(x[i]), x[i]), {i: 1}, here)[0]
        step = mpmath.mpf(10) ** -20

        def at(offset: mpmath.mpf) -> mpmath.mpf:
            there = point(Real())
            there.memory["x", (1,)] = (evaluate(x[i], {i: 1}, here)[0] + offset, 0)
            return evaluate(function(x[i]), {i: 1}, there)[0]

        assert abs((at(step) - at(-step)) / (2 * step) - slope) < mpmath.mpf(10) ** -30


def test_the_slope_of_the_larger_of_two() -> None:
    here = point(Real(), n=1)
    with here.field.precision():
        for a, b in ((x[i], w[0 * c]), (w[0 * c], x[i])):
            larger = evaluate(a - b, {i: 0, c: 0}, here)[0] > 0
            slope = evaluate(PartialDerivative(sympy.Max(a, b), a), {i: 0, c: 0}, here)[0]
            assert slope == int(larger)
