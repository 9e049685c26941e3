"""Derivatives of indexed sums with respect to an entry, against exact differences: strides, offsets and deltas."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Add, Expr, KroneckerDelta, Mul

from derive.algebra import differentiate as module
from derive.algebra.differentiate import carry_out, differentiate, expand_definitions
from derive.algebra.index import Index
from derive.algebra.nodes import AtZero, IndexedSum, PartialDerivative, Within, tensor
from derive.algebra.normal import normalise
from derive.forward_map import Definition
from tests.derive.algebra.brute import World, derivative, environments, value
from tests.derive.algebra.expressions import L, entry, guards, m, n, offsets, random_cases, steps, w, worlds, x, y

i, j, k, q = (Index(name, n) for name in "ijkq")
p, e = Index("p", L), Index("e", L)
c, d = Index("c", m), Index("d", m)
g = tensor("g")


@st.composite
def stencils(draw: Any, position: Index) -> Expr:
    """A convolution, a strided sum of squares, or a transposed convolution, at ``position``."""
    tap, at = Index("tap", m), Index("at", L)
    reads = draw(steps) * position + draw(steps) * tap - draw(offsets)
    match draw(st.sampled_from(["convolution", "convolution", "energy", "transposed", "guarded"])):
        case "energy":
            return IndexedSum(entry("x", reads) ** 2, tap)
        case "transposed":
            writes = draw(steps) * at + draw(steps) * tap - draw(offsets)
            return IndexedSum(w[tap] * x[at] * KroneckerDelta(position, writes), tap, at)
        case "guarded":
            return IndexedSum(w[tap] * entry("x", reads) * draw(guards((position, tap))), tap)
    return IndexedSum(w[tap] * entry("x", reads), tap)


@st.composite
def losses(draw: Any) -> Expr:
    """A polynomial in stencils: at a free position, summed over positions, squared, multiplied."""
    over = Index("o", draw(st.sampled_from([n, L, sympy.Integer(3)])))
    here, summed = draw(stencils(p)), draw(stencils(over))
    return draw(
        st.sampled_from(
            [
                here,
                here**2,
                IndexedSum(summed**2, over),
                here * IndexedSum(summed, over),
                IndexedSum(summed * entry("x", over), over) + here,
                x[p] * here,
            ]
        )
    )


@settings(random_cases, max_examples=150)
@given(loss=losses(), world=worlds(), data=st.data())
def test_the_derivative_is_the_slope_of_the_polynomial(loss: Expr, world: World, data: Any) -> None:
    name, index = data.draw(st.sampled_from([("x", e), ("w", d)]))
    slope = normalise(differentiate(loss, tensor(name)[index], {}))
    for at in environments(Add(loss, slope, index, evaluate=False), world, most=4):
        assert value(slope, at, world) == derivative(loss, name, (at[index],), at, world), slope


TABLE: dict[str, tuple[Expr, Expr, Expr]] = {
    "an entry by itself": (x[p], x[e], KroneckerDelta(p, e)),
    "a matrix entry": (y[i, c], y[j, d], KroneckerDelta(i, j) * KroneckerDelta(c, d)),
    "another tensor": (x[p], w[c], sympy.S.Zero),
    "a transposed entry": (g[i, j], g[j, i], KroneckerDelta(i, j)),
    "a diagonal entry": (g[i, i], g[j, k], KroneckerDelta(i, j) * KroneckerDelta(i, k)),
    "a guard is constant": (Within(p - 1, L) * x[p], x[e], Within(p - 1, L) * KroneckerDelta(p, e)),
    "a bilinear form": (IndexedSum(g[i, j] * w[c] * y[i, c], i, j, c), w[d], IndexedSum(g[i, j] * y[i, d], i, j)),
    "a quadratic form": (
        IndexedSum(x[p] * x[e] * g[p, e], p, e),
        x[p],
        IndexedSum((g[e, p] + g[p, e]) * x[e], e),
    ),
    "a square of a sum": (IndexedSum(x[p], p) ** 2, x[e], 2 * IndexedSum(x[p], p)),
    "a root": (sympy.sqrt(IndexedSum(x[p] ** 2, p)), x[e], x[e] / sympy.sqrt(IndexedSum(x[p] ** 2, p))),
    "an exponential": (sympy.exp(-2 * x[p]), x[e], -2 * KroneckerDelta(p, e) * sympy.exp(-2 * x[p])),
    "an absolute value": (sympy.Abs(x[p]), x[p], sympy.sign(x[p])),
    "a constant": (n + sympy.pi, x[p], sympy.S.Zero),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_table(row: tuple[Expr, Expr, Expr]) -> None:
    expression, variable, expected = row
    assert normalise(differentiate(expression, variable, {})) == normalise(expected)


def test_by_a_scalar_symbol() -> None:
    eta = sympy.Symbol("eta", positive=True)
    assert differentiate(eta**2 * x[p], eta, {}) == 2 * eta * x[p]
    assert differentiate(x[p], eta, {}) == 0


def chain() -> dict[Any, Definition]:
    """u[i] = sum of y[i, c] w[c];  v = sum of u^2: two intermediates, the second a scalar over the first."""
    u = Definition("u", (i,), IndexedSum(y[i, c] * w[c], c))
    v = Definition("v", (q,), IndexedSum(u.base[k] ** 2, k) + 0 * q)
    return {u.base: u, v.base: v}


def test_intermediates_are_differentiated_and_kept_by_name() -> None:
    scope = chain()
    u, v = tensor("u"), tensor("v")
    slope = normalise(differentiate(v[i] * x[p], y[j, d], scope))
    assert slope == normalise(2 * u[j] * w[d] * x[p])
    expanded = expand_definitions(v[i] * x[p], scope)
    assert not expanded.has(u, v)
    assert normalise(expand_definitions(slope, scope)) == normalise(differentiate(expanded, y[j, d], {}))


def test_expanding_a_definition_does_not_capture() -> None:
    """The definition sums over ``c``; so does the sum in which it is used."""
    scope = {tensor("u"): Definition("u", (i,), IndexedSum(y[i, c] * w[c], c))}
    used = IndexedSum(tensor("u")[i] * w[c], i, c)
    world = World({n: 2, m: 3}, {"y": (n, m), "w": (m,)})
    rows = [sum(world.entry("y", (a, b)) * world.entry("w", (b,)) for b in range(3)) for a in range(2)]
    expected = sum(rows) * sum(world.entry("w", (b,)) for b in range(3))
    assert value(expand_definitions(used, scope), {}, world) == expected
    assert value(normalise(expand_definitions(used, scope)), {}, world) == expected


def test_inert_derivatives_are_carried_out_inside_other_expressions() -> None:
    inert = 3 * PartialDerivative(x[p] ** 2, x[e]) + IndexedSum(PartialDerivative(x[p], x[e]), p)
    assert normalise(carry_out(inert, {})) == normalise(6 * x[p] * KroneckerDelta(p, e) + 1)


def test_first_order_in_the_step_forgets_the_moved_tensors() -> None:
    """``w' = w - eta g``: the change of ``w'^2`` is ``-2 w g`` in terms of the tensor before the step."""
    eta = sympy.Symbol("eta", positive=True)
    moved = Definition("w'", (c,), w[c] - eta * tensor("h")[c])
    first = carry_out(AtZero(moved.base[c] ** 2, eta), {moved.base: moved})
    assert normalise(first) == -2 * w[c] * tensor("h")[c]


def test_slopes_of_the_largest_sum_to_one_and_never_meet() -> None:
    """For three arguments in every order of size, exactly one has a derivative, which is 1."""
    letters = sympy.symbols("a b c", real=True)
    largest = sympy.Max(*letters)
    slopes = [module.outer_derivative(largest, position) for position in (1, 2, 3)]
    for order in itertools.permutations((-1, 2, 5)):
        at = dict(zip(largest.args, order, strict=True))
        assert [slope.subs(at) for slope in slopes] == [int(v == 5) for v in order]
    first, second = (normalise(slope) for slope in slopes[:2])
    assert normalise(first * second) == 0 and normalise(first**2 - first) == 0
    assert normalise(sympy.Heaviside(-2 * x[p]) + sympy.Heaviside(x[p] / 3)) == 1


def test_a_symmetric_function_keeps_its_arguments_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """SymPy sorts the arguments of ``max`` by name; the placeholders for them may have any order of names."""
    largest = sympy.Max(x[p], w[c], evaluate=False)
    expected = [sympy.Heaviside(a - b) for a, b in (largest.args, largest.args[::-1])]
    real_dummy = sympy.Dummy
    for names in ("ab", "ba"):
        letters = iter(names * 2)
        monkeypatch.setattr(module.sympy, "Dummy", lambda real, letters=letters: real_dummy(next(letters), real=real))
        assert [module.outer_derivative(largest, position) for position in (1, 2)] == expected


@pytest.mark.parametrize("expression", [sympy.Symbol("r") ** x[p], sympy.Integral(x[p], (sympy.Symbol("r"), 0, 1))])
def test_what_has_no_rule_is_refused(expression: Expr) -> None:
    with pytest.raises(TypeError, match=r"no derivative rule|variable exponent"):
        differentiate(Mul(2, expression), x[e], {})
