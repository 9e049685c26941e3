"""Guards are dropped only by proof: a decided guard holds at every size, and an undecided one is kept."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Expr, KroneckerDelta

from derive.algebra.eliminate import eliminate, is_guard, solve_for
from derive.algebra.index import Index, always_within, bounds
from derive.algebra.nodes import Divides, IndexedSum, Within, tensor
from derive.algebra.normal import normalise
from tests.derive.algebra.brute import World, environments, value
from tests.derive.algebra.expressions import SIZES, L, m, n, offsets, padding, positions, random_cases, steps, stride, t
from tests.derive.algebra.expressions import worlds as draw_worlds

i, j, a, p = Index("i", n), Index("j", n), Index("a", m), Index("p", L)
x = tensor("x")


def worlds(*, most: int = 4) -> list[World]:
    """Every choice of small sizes and strides."""
    sizes = itertools.product(range(1, most + 1), (1, 3), (1, 2, 3), (0, 1))
    return [World({n: s, L: s + 1, m: b, stride: c, padding: d}, {"t": (n,), "x": (n,)}) for s, b, c, d in sizes]


@settings(random_cases, max_examples=120)
@given(position=positions((i, a, p)), size=st.sampled_from(SIZES), step=steps, world=draw_worlds())
def test_a_guard_that_is_decided_holds(position: Expr, size: Expr, step: Expr, world: World) -> None:
    """``evaluate=False`` keeps the guard as written; deciding it must not change it anywhere."""
    for guard, plain in (
        (Within(position, size), Within(position, size, evaluate=False)),
        (Divides(step, position), Divides(step, position, evaluate=False)),
    ):
        for at in environments(position + 0 * i, world, most=12):
            assert value(guard, at, world) == value(plain, at, world)


@settings(random_cases, max_examples=80)
@given(indices=st.permutations((i, a, p)), first=steps, second=steps, offset=offsets, world=draw_worlds())
def test_bounds_are_reached_and_not_passed(indices: Any, first: Expr, second: Expr, offset: Expr, world: World) -> None:
    expression = first * indices[0] - second * indices[1] + offset
    low, high = bounds(expression)
    seen = [value(expression, at, world) for at in environments(expression, world, most=400)]
    assert (min(seen), max(seen)) == (value(low, {}, world), value(high, {}, world))


@pytest.mark.parametrize(
    ("position", "size", "decided"),
    [
        (i, n, True),
        (i, n + 1, True),
        (i, m, False),
        (n - 1 - i, n, True),
        (n - i, n, False),
        (i + 1, n, False),
        (i + 1, n + 1, True),
        (i - 1, n, False),
        (stride * i, stride * n, True),
        (stride * i + stride - 1, stride * n, True),
        (stride * i + stride, stride * n, False),
        (2 * i + a, 2 * n + m - 2, True),
        (2 * i + a, 2 * n + m - 3, False),
        (i / 2, n, False),
        (i - padding, n, False),
        (t[i], L, True),
        (t[i], n, False),
        (sympy.Integer(0), n, True),
        (sympy.Integer(-1), n, False),
    ],
)
def test_ranges_that_are_proved(position: Expr, size: Expr, decided: bool) -> None:
    assert always_within(position, size) is decided
    assert (Within(position, size) == 1) is decided


@pytest.mark.parametrize("size", [1, 2, 3])
def test_guards_of_numbers_are_decided(size: int) -> None:
    for number in range(-2, 5):
        assert Within(number, size) == int(0 <= number < size)
        assert Divides(size, number) == int(number % size == 0)


@pytest.mark.parametrize(
    ("divisor", "number", "decided"),
    [
        (1, i, True),
        (stride, stride * i, True),
        (stride, stride * i + 2 * stride * a, True),
        (stride, stride * i + 1, False),
        (2, 2 * i, True),
        (2, 4 * i + 2 * a, True),
        (2, i, False),
        (2, i + 1, False),
        (stride, sympy.Integer(0), True),
    ],
)
def test_divisibility_that_is_proved(divisor: Expr, number: Expr, decided: bool) -> None:
    assert (Divides(divisor, number) == 1) is decided


def test_guards_are_their_own_powers_and_constants() -> None:
    for guard in (Within(i - 1, n), Divides(2, i), KroneckerDelta(i, j)):
        assert is_guard(guard) and guard**3 == guard
    assert Divides(2, -i) == Divides(2, i)
    assert Within(i - 1, n).fdiff() == 0


@pytest.mark.parametrize(
    ("delta", "index", "solution"),
    [
        (KroneckerDelta(i, j), j, (i, [])),
        (KroneckerDelta(a, j), j, (a, [Within(a, n)])),
        (KroneckerDelta(i, n - 1 - j), j, (n - 1 - i, [])),
        (KroneckerDelta(i, stride * j), j, (i / stride, [Divides(stride, i), Within(i / stride, n)])),
        (KroneckerDelta(i, stride * j), i, (stride * j, [Within(stride * j, n)])),
        (KroneckerDelta(2 * i, 2 * j), j, (i, [])),
        (KroneckerDelta(p, t[j]), p, (t[j], [])),
        (KroneckerDelta(p, t[j]), j, None),
        (KroneckerDelta(p, (stride - 2) * j), j, None),
        (KroneckerDelta(p, a), j, None),
    ],
)
def test_a_delta_is_solved_with_the_guards_that_it_needs(delta: Expr, index: Index, solution: Any) -> None:
    assert solve_for(delta, index) == solution


def test_elimination_prefers_what_needs_no_guard() -> None:
    left, rest = eliminate([KroneckerDelta(a, j), KroneckerDelta(i, j), x[j]], (j,)) or ([], ())
    assert rest == () and set(left) == {KroneckerDelta(a, i), x[i]}
    assert eliminate([x[j]], (j,)) is None


def test_elimination_is_right_at_every_size() -> None:
    """``sum over j of delta(p, stride j - padding) x[j]``: the value, the stride and the range, at 24 worlds."""
    expression = IndexedSum(KroneckerDelta(p, stride * j - padding) * x[j], j)
    normal = normalise(expression)
    assert not normal.has(IndexedSum)
    for world in worlds():
        for at in environments(expression, world):
            assert value(normal, at, world) == value(expression, at, world)


def test_sums_of_nothing() -> None:
    assert IndexedSum(0, i) == 0
    assert IndexedSum(x[i]) == x[i]
    assert IndexedSum(x[i] ** 2, i).is_nonnegative
    assert IndexedSum(x[i], i).is_nonnegative is None
    assert IndexedSum(x[i], i).free_symbols.isdisjoint({i, n})


def test_an_index_is_what_it_is() -> None:
    assert Index("i", n) == i != Index("i", m)
    assert i != i.fresh() != i.fresh()
    assert i.primed().name == "i'" and i.primed().size == n
    assert sorted([Index("j", n), Index("i", m), i], key=Index.sort_key) == [Index("i", m), i, Index("j", n)]
    copy = i.func(*i.__getnewargs_ex__()[0])
    assert copy == i
