"""LaTeX of expressions: names, entries, guards, and sums recognised by shape and never by name."""

from __future__ import annotations

import pytest
import sympy
from sympy import Expr, KroneckerDelta, sqrt

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within, tensor
from derive.algebra.normal import normalise
from derive.export.notation import latex, name_parts
from derive.export.symbols import short_symbols
from derive.forward_map import BATCH

n, m = size_symbol("n"), size_symbol("m")
s, i, j = BATCH, Index("i", m), Index("j", n)
t, k = s.primed(), i.primed()
x, W, b, K, r2, WQ, uu = (tensor(name) for name in ("x", "W", "b", "K", "r2", "W_Q", "uu"))
eta = sympy.Symbol("eta", positive=True)
square = IndexedSum(x[s, j] ** 2, j)
sigma = sympy.Function("sigma")

CASES: list[tuple[Expr, str]] = [
    (W[i, j], "W_{i j}"),
    (x[s, 2 * j - 1], "x_{s, 2 j - 1}"),
    (x[s, sympy.Integer(0)], "x_{s, 0}"),
    (K[s, i, t, k], "K_{s i; s' i'}"),
    (K[s, i, s, k], "K_{s i; s i'}"),
    (K[s, i, s, i], "K_{s i; s i}"),
    (K[s, s, i], "K_{s s i}"),
    (r2[s] ** 2, r"\left( r^{(2)}_{s} \right)^{2}"),
    (WQ[i, j], "W^{Q}_{i j}"),
    (uu[s], r"\mathit{uu}_{s}"),
    (tensor("W'")[i, j], "W'_{i j}"),
    (KroneckerDelta(i, k), r"\delta_{i i'}"),
    (KroneckerDelta(2 * i, j), r"\delta_{2 i, j}"),
    (Within(2 * j - 1, n), r"\left[ 0 \le 2 j - 1 < n \right]"),
    (Divides(sympy.Integer(2), j), r"\left[ 2 \mid j \right]"),
    (PartialDerivative(x[s, j], W[i, j]), r"\frac{\partial x_{s j}}{\partial W_{i j}}"),
    (PartialDerivative(x[s, j] + b[i], b[i]), r"\frac{\partial}{\partial b_{i}}\left( b_{i} + x_{s j} \right)"),
    (AtZero(eta * b[i], eta), r"\frac{\partial}{\partial \eta}\left[ \eta b_{i} \right]_{\eta = 0}"),
    (IndexedSum(W[i, j] * x[s, j], j) + b[i], r"W_{i} \cdot x_{s} + b_{i}"),
    (b[i] / sqrt(square + 1), r"\frac{b_{i}}{\sqrt{\lVert x_{s} \rVert^{2} + 1}}"),
    (eta / n * IndexedSum(x[s, 2 * j], j), r"\frac{\eta}{n} \sum_{j} x_{s, 2 j}"),
    (IndexedSum(x[s, 2 * j], j) * b[i], r"b_{i} \sum_{j} x_{s, 2 j}"),
    (IndexedSum(x[s, 2 * j], j) ** 2, r"\left( \sum_{j} x_{s, 2 j} \right)^{2}"),
    (IndexedSum(-x[s, j], j), r"\sum_{j} \left( - x_{s j} \right)"),
    (IndexedSum(x[s, j] + 1, j), r"\sum_{j} \left( x_{s j} + 1 \right)"),
    (tensor("W'")[i, j] ** 2, r"\left( W'_{i j} \right)^{2}"),
    (x[t, j] ** 2, r"x_{s' j}^{2}"),
    (sympy.Max(b[i], 0), r"\max\left( b_{i}, 0 \right)"),
    (sympy.Heaviside(b[i] - eta), r"\left[ b_{i} > \eta \right]"),
    (sympy.exp(-eta), r"e^{- \eta}"),
    (sympy.tanh(eta) ** 2, r"\tanh^{2}{\left(\eta \right)}"),
    (sigma(2 * eta).diff(eta), r"2 \sigma'\left( 2 \eta \right)"),
    (sympy.Rational(3, 2) * eta, r"\frac{3 \eta}{2}"),
    (sympy.pi / 2, r"\frac{\pi}{2}"),
    (sympy.atan(eta), r"\arctan{\left(\eta \right)}"),
]


@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[expected for _, expected in CASES])
def test_expressions(expression: Expr, expected: str) -> None:
    assert latex(expression) == expected


@pytest.mark.parametrize(
    ("summed", "expected"),
    [
        (square, r"\lVert x_{s} \rVert^{2}"),
        (IndexedSum(x[s, j] * x[t, j], j), r"x_{s} \cdot x_{s'}"),
        (IndexedSum(b[i] ** 2, i), r"\lVert b \rVert^{2}"),
        (sqrt(square), r"\lVert x_{s} \rVert"),
        (square**2, r"\lVert x_{s} \rVert^{4}"),
        (1 / square, r"\frac{1}{\lVert x_{s} \rVert^{2}}"),
        (square ** sympy.Rational(-3, 2), r"\frac{1}{\lVert x_{s} \rVert^{3}}"),
        (3 * IndexedSum(x[s, j] * x[t, j], j), r"3 \left( x_{s} \cdot x_{s'} \right)"),
        (IndexedSum(x[s, j] * x[t, j], j) ** 2, r"\left( x_{s} \cdot x_{s'} \right)^{2}"),
    ],
)
def test_sums_over_the_last_axis_are_products_of_vectors(summed: Expr, expected: str) -> None:
    assert latex(summed) == expected
    assert latex(normalise(summed)) == expected


@pytest.mark.parametrize(
    "summed",
    [
        IndexedSum(x[s, j] ** 2, s),  # not the last axis
        IndexedSum(x[j, j] ** 2, j),  # the index occurs twice
        IndexedSum(x[s, j] ** 4, j),
        IndexedSum(x[s, j], j),
        IndexedSum(x[s, j] * x[t, j] * b[j], j),
        IndexedSum(x[s, 2 * j] ** 2, j),
        IndexedSum(x[s, j] * W[j, i], j),
        IndexedSum(x[s, j] ** 2, s, j),
        IndexedSum(x[s, j] ** 2 * Within(j + 1, n), j),
    ],
)
def test_any_other_sum_stays_a_sum(summed: Expr) -> None:
    shown = latex(summed)
    assert r"\sum" in shown
    assert r"\lVert" not in shown
    assert r"\cdot" not in shown


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("x", ("x", "")),
        ("gamma", (r"\gamma", "")),
        ("Gamma", (r"\Gamma", "")),
        ("lamda", (r"\lambda", "")),
        ("gamma2", (r"\gamma", "2")),
        ("W_Q", ("W", "Q")),
        ("WQ", ("W", "Q")),
        ("kappa_max", (r"\kappa", r"\mathrm{max}")),
        ("xhat", (r"\hat{x}", "")),
        ("xi", (r"\xi", "")),
        ("mean", (r"\mathit{mean}", "")),
        ("pixel0", (r"\mathit{pixel}", "0")),
        ("sum_of_x", (r"\mathit{sum\_of\_x}", "")),
        ("W'", ("W'", "")),
        (r"x}\input{secret", (r"\mathit{xinputsecret}", "")),
        ("x$y%#&~^", (r"\mathit{xy}", "")),
    ],
)
def test_names(name: str, parts: tuple[str, str]) -> None:
    assert name_parts(name) == parts


def test_long_names_get_a_symbol_that_keeps_their_axis() -> None:
    assert short_symbols(["n", "strideh", "stridew", "pad"]) == {
        "strideh": r"\alpha_{h}",
        "stridew": r"\alpha_{w}",
        "pad": r"\beta",
    }
    assert latex(size_symbol("strideh") * j, aliases={"strideh": r"\alpha_{h}"}) == r"\alpha_{h} j"
