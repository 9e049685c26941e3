"""Plain text: readable letters, no engine names, the formula language's own syntax, the same in every session."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
from sympy import Expr, KroneckerDelta, Rational, sqrt

import derive
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import AtZero, Divides, IndexedSum, PartialDerivative, Within, tensor
from derive.algebra.normal import normalise
from derive.declare import forward
from derive.export.letters import hints_from
from derive.export.text import text
from derive.forward_map import BATCH

n, m, B = size_symbol("n"), size_symbol("m"), BATCH.size
s, i, j = BATCH, Index("i", m), Index("j", n)
t, k = s.primed(), i.primed()
x, W, b, g, K = (tensor(name) for name in ("x", "W", "b", "g", "K"))
eta = sympy.Symbol("eta", positive=True)
wx = IndexedSum(W[i, j] * x[s, j], j)
sigma = sympy.Function("sigma")

CASES: list[tuple[Expr, str]] = [
    (IndexedSum(x[s, j] ** 2, j), "sum[j](x[s,j]**2)"),
    (wx + b[i], "sum[j](W[i,j]*x[s,j]) + b[i]"),
    ((wx + b[i]) / sqrt(IndexedSum(x[s, j] ** 2, j) + 1), "(sum[j](W[i,j]*x[s,j]) + b[i])/sqrt(sum[j](x[s,j]**2) + 1)"),
    (KroneckerDelta(i, k), "delta(i, i')"),
    (Within(2 * j - 1, n), "within(2*j - 1, n)"),
    (Divides(sympy.Integer(2), i), "divides(2, i)"),
    (PartialDerivative(x[s, j], W[i, j]), "diff(x[s,j], W[i,j])"),
    (AtZero(eta * b[i], eta), "at_zero(eta*b[i], eta)"),
    (K[s, i, t, k], "K[s,i,s',i']"),
    (-x[s, j] - eta + 1, "-x[s,j] - eta + 1"),
    (1 - x[s, j], "-x[s,j] + 1"),
    (Rational(-3, 2) * eta ** Rational(-3, 2), "-3/(2*eta**(3/2))"),
    ((1 + eta) ** -2, "1/(eta + 1)**2"),
    (eta / (3 * n), "eta/(3*n)"),
    (sympy.exp(-b[i]), "exp(-b[i])"),
    (sympy.Abs(b[i]), "abs(b[i])"),
    (sympy.Max(b[i], 0), "max(b[i], 0)"),
    (sympy.Heaviside(b[i] - 1), "step(b[i] - 1)"),
    (sigma(eta).diff(eta), "sigma'(eta)"),
    (sigma(2 * eta).diff(eta), "2*sigma'(2*eta)"),
    (b[i] ** (2 * n), "b[i]**(2*n)"),
]


@pytest.mark.parametrize(("expression", "expected"), CASES, ids=[expected for _, expected in CASES])
def test_expressions(expression: Expr, expected: str) -> None:
    assert text(expression) == expected


def test_canonical_and_fresh_names_are_never_shown() -> None:
    opened, (fresh,) = IndexedSum(x[s, j] ** 2, j).renamed()
    for expression in (
        normalise(wx**2 + b[i]),
        opened,
        IndexedSum(opened, fresh),
        normalise(IndexedSum(wx * g[s, i], i, s)),
    ):
        shown = text(expression)
        assert "_" not in shown
        assert re.fullmatch(r"[A-Za-z0-9*+\[\](), ']+", shown)


def test_a_bound_letter_never_meets_a_free_one() -> None:
    square = normalise(IndexedSum(x[s, j] ** 2, j))
    assert text(square + x[s, j]) == "sum[k](x[s,k]**2) + x[s,j]"
    assert text(square, reserve=[x[s, j]]) == "sum[k](x[s,k]**2)"
    assert text(normalise(IndexedSum(x[s, j], s)) * x[s, j]) == "x[s,j]*sum[s'](x[s',j])"


def test_a_letter_is_no_tensor_and_no_size() -> None:
    y, size = tensor("j"), size_symbol("k")
    bound = Index("_1_0", size, -1)
    assert text(IndexedSum(y[bound], bound)) == "sum[l](j[l])"


def test_nested_sums_over_one_axis_get_two_letters() -> None:
    inner = IndexedSum(x[s, j] ** 2, j)
    assert text(IndexedSum(inner * x[s, j], j)) == "sum[j](x[s,j]*sum[k](x[s,k]**2))"


def test_letters_follow_the_layers_own() -> None:
    hints = hints_from(x[s, j], b[i])
    assert text(normalise(IndexedSum(b[i] ** 2, i)), hints) == "sum[i](b[i]**2)"


@pytest.mark.parametrize("name", ["linear", "affine", "embedding", "embedding-bag", "gain", "attention-value"])
def test_what_is_printed_reads_back(name: str) -> None:
    layer = derive.layer(name)
    again = forward(
        "again",
        sizes=" ".join(str(size) for size in layer.sizes),
        inputs={declared.name: _words(declared.axes) for declared in layer.inputs},
        values={declared.name: str(declared.values) for declared in layer.inputs if declared.values is not None},
        parameters={declared.name: _words(declared.axes) for declared in layer.parameters},
        formulas=[f"{text(d.entry)} = {text(d.expression)}" for d in (*layer.definitions, layer.output)],
        axes=_words(tuple(index.size for index in layer.output.indices)),
        batched=True,
    )
    assert equal(again.output.expression, layer.output.expression)
    for mine, theirs in zip(again.definitions, layer.definitions, strict=True):
        assert equal(mine.expression, theirs.expression)


def _words(axes: tuple[Expr, ...]) -> str:
    return " ".join(str(axis) for axis in axes)


def test_the_text_does_not_depend_on_the_session(root: Path) -> None:
    program = (
        "import derive, sys\n"
        "from derive.export.text import text\n"
        "from derive.export.notation import latex\n"
        "if sys.argv[1] == '1': derive.effective_update(derive.layer('linear'))\n"
        "d = derive.effective_update(derive.layer('affine'))\n"
        "for step in d.steps:\n"
        "    print(text(step.before), text(step.after), latex(step.before), latex(step.after))\n"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", program, seed],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(shown) == 1
