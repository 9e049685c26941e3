"""The normal form agrees with brute force, is the same for every naming and order, and is idempotent."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy import Expr, KroneckerDelta

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within, tensor
from derive.algebra.normal import normalise
from tests.derive.algebra.brute import OutsideTensor, World, environments, value
from tests.derive.algebra.expressions import Case, cases, disguise, random_cases

n, m = size_symbol("n"), size_symbol("m")
stride = size_symbol("stride")
i, j, k = (Index(name, n) for name in "ijk")
a, b = (Index(name, m) for name in "ab")
x, y, A, M = (tensor(name) for name in ("x", "y", "A", "M"))


@settings(random_cases, max_examples=200)
@given(case=cases())
def test_the_normal_form_has_the_same_value(case: Case) -> None:
    normal = normalise(case.expression)
    for at in environments(case.expression, case.world, most=3):
        assert value(normal, at, case.world) == value(case.expression, at, case.world), normal


@settings(random_cases, max_examples=120)
@given(case=cases(), seed=st.integers(0, 999))
def test_renamed_and_reordered_sums_have_one_normal_form(case: Case, seed: int) -> None:
    assume(solved_one_way(case.expression))
    normal = normalise(case.expression)
    assert normalise(disguise(case.expression, random.Random(seed))) == normal
    assert normalise(normal) == normal


@pytest.mark.slow
@settings(random_cases, max_examples=100)
@given(case=cases(depth=2), seed=st.integers(0, 999))
def test_deeply_nested_sums(case: Case, seed: int) -> None:
    normal = normalise(case.expression)
    for at in environments(case.expression, case.world, most=2):
        assert value(normal, at, case.world) == value(case.expression, at, case.world), normal
    if solved_one_way(case.expression):
        assert normalise(disguise(case.expression, random.Random(seed))) == normal


def solved_one_way(expression: Expr) -> bool:
    """Whether at most one delta needs solving: of several, which is solved for which index is not specified."""
    return sum(not all(isinstance(a, Index) for a in delta.args) for delta in expression.atoms(KroneckerDelta)) < 2


def s(body: Expr, *bound: Index) -> Expr:
    return IndexedSum(body, *bound)


SAME: dict[str, tuple[Any, Any]] = {
    "renamed": (s(x[j], j), s(x[k], k)),
    "another order of binding": (s(y[j, k], j, k), s(y[j, k], k, j)),
    "split in two": (s(s(y[j, k], k), j), s(y[j, k], j, k)),
    "transposed names": (s(y[j, k], j, k), s(y[k, j], k, j)),
    "a factor out of the sum": (s(x[i] * x[j], j), x[i] * s(x[j], j)),
    "a sum of sums": (s(x[j] + x[j] ** 2, j), s(x[j], j) + s(x[k] ** 2, k)),
    "a product of sums": (s(x[j] * x[k], j, k), s(x[j], j) ** 2),
    "an unused index counts": (s(x[i], j), n * x[i]),
    "an empty body counts too": (s(sympy.S.One, j, a), n * m),
    "a delta picks": (s(KroneckerDelta(i, j) * x[j], j), x[i]),
    "two deltas chain": (s(KroneckerDelta(i, j) * KroneckerDelta(j, k) * x[k], j, k), x[i]),
    "a trace either way": (s(A[j, k] * A[k, j], j, k), s(A[k, j] * A[j, k], j, k)),
    "a longer trace": (s(A[i, j] * A[j, k] * A[k, i], i, j, k), s(A[k, i] * A[i, j] * A[j, k], k, j, i)),
    "a free delta renames": (KroneckerDelta(i, j) * x[i], KroneckerDelta(i, j) * x[j]),
    "a guard once": (Within(i - 1, n) * s(Within(i - 1, n) * x[j], j), Within(i - 1, n) * s(x[j], j)),
    "a squared guard": (Within(i + 1, n) ** 2 * x[i], Within(i + 1, n) * x[i]),
    "a guard proved": (s(Within(n - 1 - j, n) * x[n - 1 - j], j), s(x[n - 1 - k], k)),
    "signs of a delta": (s(KroneckerDelta(2 * j, i) * x[j], j), s(KroneckerDelta(-i, -2 * j) * x[j], j)),
    "brackets": ((x[i] + s(x[j], j)) ** 2, x[i] ** 2 + 2 * x[i] * s(x[k], k) + s(x[j] * x[k], j, k)),
    "below a root": (1 / sympy.sqrt(s(x[j] ** 2, j) + 1), (1 + s(x[k] ** 2, k)) ** sympy.Rational(-1, 2)),
    "shadowed names": (s(x[j] * s(y[j, j], j), j), s(x[k], k) * s(y[i, i], i)),
}

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "other tensors": (s(x[j], j), s(y[j, j], j)),
    "other ranges": (s(x[j], j), s(x[a], a)),
    "a square inside and outside": (s(x[j] ** 2, j), s(x[j], j) ** 2),
    "a diagonal and a whole": (s(y[j, j], j), s(y[j, k], j, k)),
    "a matrix and its transpose": (s(A[i, j] * x[j], j), s(A[j, i] * x[j], j)),
    "squares of rows and of all": (s(s(y[j, k], k) ** 2, j), s(y[j, k], j, k) ** 2),
    "traces of two kinds": (s(A[j, k] * A[k, j], j, k), s(A[j, k] * A[j, k], j, k)),
    "triangles of two kinds": (s(A[i, j] * A[j, k] * A[k, i], i, j, k), s(A[i, j] * A[j, k] * A[i, k], i, j, k)),
    "a product of sums and a sum of products": (s(x[j] * y[j, j], j), s(x[j], j) * s(y[j, j], j)),
    "a guard less": (s(Within(j - 1, n) * x[j], j), s(x[j], j)),
    "another guard": (s(Within(j - 1, n) * x[j], j), s(Within(j + 1, n) * x[j], j)),
    "free and bound": (s(y[i, j], j), s(y[j, i], j)),
    "unused index": (s(x[i], j), x[i]),
    "unlike counts": (s(x[i], j), s(x[i], a)),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME.keys())
def test_equal_sums_are_one_object(pair: tuple[Any, Any]) -> None:
    assert normalise(pair[0]) == normalise(pair[1])


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_sums_stay_different(pair: tuple[Any, Any]) -> None:
    assert normalise(pair[0]) != normalise(pair[1])
    assert normalise(pair[0] - pair[1]) != 0


def test_a_canonical_index_is_not_captured_by_the_numbering() -> None:
    """An index numbered by the normal form may come back as the index of a sum that holds another one."""
    first = normalise(s(x[j], j)).bound[0]
    outer = s(x[first] * s(y[first, k] ** 2 / (1 + y[k, first]), k), first)
    assert normalise(outer) == normalise(s(x[j] * y[j, k] ** 2 / (1 + y[k, j]), j, k))


def test_inert_derivatives_are_refused() -> None:
    for inert in (PartialDerivative(x[i] ** 2, x[j]), AtZero(x[i], sympy.Symbol("eta"))):
        with pytest.raises(TypeError, match="carry out"):
            normalise(1 + inert)


def test_strides_keep_integrality_and_range() -> None:
    p, q = Index("p", n), Index("q", m)
    normal = normalise(s(KroneckerDelta(q, stride * p) * x[p], p))
    assert normal == Divides(stride, q) * Within(q / stride, n) * x[q / stride]
    for sizes in ((1, 1, 1), (2, 4, 2), (3, 4, 3), (4, 3, 2)):
        world = World(dict(zip((n, m, stride), sizes, strict=True)), {"x": (n,)})
        for at in environments(q + 0 * p, world):
            expected = [world.entry("x", (c,)) for c in range(sizes[0]) if at[q] == sizes[2] * c]
            assert value(normal, at, world) == sum(expected)


def test_tokens_of_two_vocabularies_are_two_tensors() -> None:
    """SymPy's caches compare by equality: the range of a tensor of integers must be part of it."""
    small, large = tensor("t", values=n), tensor("t", values=m)
    assert small != large
    assert Within(small[i], n) == 1
    assert Within(large[i], n) != 1
    assert normalise(s(Within(small[i], n) * x[i], i)) != normalise(s(Within(large[i], n) * x[i], i))


def test_sums_of_bound_positions_have_a_decidable_sign() -> None:
    """SymPy takes a sum without entries for a constant in its size, unless told otherwise."""
    count = s(j + 1, j)
    assert (1 / (count**2 + 1)).is_positive is not False
    assert normalise(1 / (count + 1)) == 1 / (normalise(count) + 1)


def test_the_brute_evaluator_itself_refuses_what_is_outside() -> None:
    world = World({n: 2}, {"x": (n,)})
    with pytest.raises(OutsideTensor):
        value(x[j + 1], {j: 1}, world)
    with pytest.raises(OutsideTensor):
        value(x[j / 2], {j: 1}, world)
    assert value(Within(j + 1, n) * x[j + 1], {j: 1}, world) == 0
