"""Where SymPy's own route is silently wrong, ours is right at every position.

If one of SymPy's answers changes, its assertion here fails: then our own version of that part may be unnecessary.
"""

from __future__ import annotations

import os
from fractions import Fraction

import pytest
import sympy
from sympy import IndexedBase, KroneckerDelta, MatrixSymbol, Piecewise, Sum, Trace

from derive.algebra.differentiate import differentiate, expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, Within, map_entries, rename, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.excerpt import SpecError
from derive.export.notation import latex
from derive.formula import parse_angle
from derive.forward_map import Definition
from derive.spec import loads_spec
from tests.derive.algebra.brute import World, value

n = size_symbol("n")
i, j, k = (Index(name, n) for name in "ijk")
x, y, A, B, W, g = (tensor(name) for name in ("x", "y", "A", "B", "W", "g"))
si, sj, sk, sp, sa, sn = sympy.symbols("i j k p a n", integer=True)
sx, sA, sB, sW, sg = (IndexedBase(name) for name in ("x", "A", "B", "W", "g"))

SPEC = """
name = "mine"
sizes = ["n"]
[input]
x = ["n"]
[parameters]
W = ["n"]
[output]
z = []
formula = "z = {formula}"
"""


def test_a_delta_with_a_stride_asks_for_integrality() -> None:
    theirs = Sum(KroneckerDelta(si, 2 * sj + 1) * sx[sj], (sj, 0, 3)).doit()
    assert theirs.subs(si, 2) == sx[sympy.Rational(1, 2)]  # there is no such entry; the truth is 0
    at, of = Index("i", 9), Index("j", 4)
    ours = normalise(IndexedSum(KroneckerDelta(at, 2 * of + 1) * x[of], of))
    world = World({}, {"x": (sympy.Integer(4),)})
    for position in range(9):
        truth = world.entry("x", ((position - 1) // 2,)) if position % 2 else Fraction(0)
        assert value(ours, {at: position}, world) == truth


def strided_gradient(position: int) -> sympy.Expr:
    """The gradient of ``sum over p, k of g[p] W[k] x[2p + k]`` by ``x[position]``, by definition."""
    return sum(sg[p] * sW[c] for p in range(4) for c in range(3) if 2 * p + c == position)


def test_the_gradient_of_a_strided_convolution_by_its_input_at_every_position() -> None:
    loss = Sum(sg[sp] * sW[sk] * sx[2 * sp + sk], (sp, 0, 3), (sk, 0, 2))
    theirs = loss.diff(sx[sa]).doit()
    wrong = [a for a in range(9) if sympy.simplify(theirs.subs(sa, a) - strided_gradient(a)) != 0]
    assert len(wrong) == 7

    p, c, a = Index("p", 4), Index("k", 3), Index("a", 9)
    ours = normalise(differentiate(IndexedSum(g[p] * W[c] * x[2 * p + c], p, c), x[a], {}))
    world = World({}, {"g": (sympy.Integer(4),), "W": (sympy.Integer(3),)})
    for position in range(9):
        truth = [
            world.entry("g", (o,)) * world.entry("W", (h,)) for o in range(4) for h in range(3) if 2 * o + h == position
        ]
        assert value(ours, {a: position}, world) == sum(truth)


def test_differentiating_by_an_entry_does_not_capture_its_index() -> None:
    assert Sum(sx[sj], (sj, 0, sn - 1)).diff(sx[sj]) == Sum(1, (sj, 0, sn - 1))  # n; the truth is 1
    assert normalise(differentiate(IndexedSum(x[j], j), x[j], {})) == 1
    assert normalise(differentiate(IndexedSum(x[j] ** 2, j), x[j], {})) == 2 * x[j]
    assert normalise(differentiate(IndexedSum(y[i, j] * x[j], j), x[j], {})) == y[i, j]


def test_substituting_under_a_binder_does_not_capture() -> None:
    assert Sum(sx[si + sj], (sj, 0, 3)).subs(si, sj) == Sum(sx[2 * sj], (sj, 0, 3))
    four = Index("j", 4)
    ours = rename(IndexedSum(x[i + four], four), {i: four})
    world = World({n: 9}, {"x": (sympy.Integer(9),)})
    for at in range(4):
        assert value(ours, {four: at}, world) == sum(world.entry("x", (at + c,)) for c in range(4))
    assert normalise(ours) != normalise(IndexedSum(x[2 * four], four))


def test_substituting_what_is_bound_is_either_done_or_left() -> None:
    theirs = Sum(sA[sj], (sj, 0, 3))
    assert theirs.subs(sA[sj], sB[sj]) == theirs  # ignored without a word
    ours = IndexedSum(A[j], j)
    for new in (B[j], B[k]):  # the free j is not the bound one
        assert normalise(rename(ours, {A[j]: new})) == normalise(ours)
    assert normalise(rename(A[j] * ours, {A[j]: B[j]})) == normalise(B[j] * ours)
    assert map_entries(ours, lambda entry: B[entry.indices]) == IndexedSum(B[j], j)
    assert rename(ours, {A: B}) == IndexedSum(B[j], j)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda s, A, x, i, j: s(x[i] * s(A[i, j], j), i), lambda s, A, x, i, j: s(x[i] * s(A[j, i], j), i)),
        (lambda s, A, x, i, j: s(x[i] * s(A[i, j], j), i), lambda s, A, x, i, j: s(x[i] * s(A[j, j], j), i)),
        (
            lambda s, A, x, i, j: s(s(A[i, j] * x[i], i) * x[j], j),
            lambda s, A, x, i, j: s(s(A[i, j] * x[j], i) * x[j], j),
        ),
    ],
)
def test_different_nested_sums_are_not_called_equal(left, right) -> None:  # type: ignore[no-untyped-def]
    def theirs(body: sympy.Expr, bound: sympy.Symbol) -> sympy.Expr:
        return Sum(body, (bound, 0, sn - 1))

    assert left(theirs, sA, sx, si, sj).dummy_eq(right(theirs, sA, sx, si, sj))
    ours_left, ours_right = left(IndexedSum, A, x, i, j), right(IndexedSum, A, x, i, j)
    assert not equal(ours_left, ours_right)
    world = World({n: 3}, {"A": (n, n), "x": (n,)})
    assert value(ours_left, {}, world) != value(ours_right, {}, world)


def test_renamed_and_reordered_sums_are_called_equal() -> None:
    first, second = Sum(sx[sj], (sj, 0, sn)), Sum(sx[sk], (sk, 0, sn))
    assert first != second and sympy.simplify(first - second) != 0
    nested = IndexedSum(x[i] * IndexedSum(A[i, j], j), i)
    again = IndexedSum(IndexedSum(A[k, i] * x[k], k), i)
    assert nested != again
    assert normalise(nested) == normalise(again) and equal(nested, again)


def test_matrix_expressions_are_refused_and_the_indexed_route_is_right() -> None:
    E, G, V, X = MatrixSymbol("E", 2, 2), MatrixSymbol("G", 2, 1), MatrixSymbol("W", 2, 2), MatrixSymbol("x", 2, 1)
    assert str((Trace(E) + 1).diff(E)) == "0"  # the truth is the identity
    assert str((G.T * V * X)[0, 0].diff(V)) == "0"  # the truth is G x^T
    for expression in (Trace(E) + 1, E[0, 0] * x[i], Sum(sx[sj], (sj, 0, 3))):
        with pytest.raises(TypeError, match="cannot occur in an indexed sum"):
            normalise(expression)
        with pytest.raises(TypeError, match="no derivative rule"):
            differentiate(expression, x[i], {})
    assert normalise(differentiate(IndexedSum(A[i, i], i) + 1, A[j, k], {})) == KroneckerDelta(j, k)
    bilinear = IndexedSum(g[i] * W[i, j] * x[j], i, j)
    assert normalise(differentiate(bilinear, W[i, k], {})) == g[i] * x[k]


def test_an_index_in_range_by_construction_needs_no_guard() -> None:
    within = sympy.Symbol("i", integer=True, nonnegative=True)
    assert Sum(KroneckerDelta(within, sj) * sx[sj], (sj, 0, sn - 1)).doit().has(Piecewise)
    assert normalise(IndexedSum(KroneckerDelta(i, j) * x[j], j)) == x[i]
    assert normalise(IndexedSum(KroneckerDelta(n - 1 - i, j) * x[j], j)) == x[n - 1 - i]
    other = Index("o", size_symbol("m"))  # of another axis: here the guard is needed, and kept
    assert normalise(IndexedSum(KroneckerDelta(other, j) * x[j], j)) == Within(other, n) * x[other]


def test_text_is_read_as_data() -> None:
    asked = "__import__('os').getpid()"
    assert sympy.sympify(asked) == os.getpid()  # theirs has run it
    for read in (parse_angle, lambda text: loads_spec(SPEC.format(formula=text))):
        with pytest.raises(SpecError):
            read(asked)
    assert loads_spec(SPEC.format(formula="sum[j](W[j] * x[j])")).name == "mine"


def test_common_parts_are_not_taken_out_of_a_sum() -> None:
    """SymPy takes ``x[j] + 1`` out of the sum that binds j; our code names only whole sums, by their definitions."""
    hoisted, _ = sympy.cse(Sum((sx[sj] + 1) ** 2 + 1 / (sx[sj] + 1), (sj, 0, sn - 1)))
    assert any(sj in part.free_symbols for _, part in hoisted)
    energy = Definition("E", (), IndexedSum((x[j] + 1) ** 2, j))
    shown = presentable(normalise(IndexedSum((x[j] + 1) ** 2 * y[k], j, k)), {energy.base: energy})
    assert not shown.free_symbols & {j, k}
    world = World({n: 2}, {"x": (n,), "y": (n,)})
    whole = IndexedSum((x[j] + 1) ** 2, j) * IndexedSum(y[k], k)
    assert value(expand_definitions(shown, {energy.base: energy}), {}, world) == value(whole, {}, world)


def test_indices_are_letters_in_latex() -> None:
    ranged = sympy.Idx("j", (0, sn - 1))
    assert "mathrel" in sympy.latex(sx[ranged])  # theirs prints the range as the subscript
    assert "Dummy" in sympy.latex(sx[sympy.Dummy()])
    assert latex(x[j]) == "x_{j}"
    assert latex(normalise(IndexedSum(x[k] * A[k, i], k))) == latex(IndexedSum(x[j] * A[j, i], j))
    assert "_1" not in latex(normalise(IndexedSum(x[k] * A[k, i], k)))
