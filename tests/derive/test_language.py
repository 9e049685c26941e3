"""Named functions, reductions and masks: derived, checked independently, and exported under their names."""

from __future__ import annotations

import pytest
import sympy

from derive.algebra.index import Index, size_symbol
from derive.algebra.named import DEFINITIONS, definition, named
from derive.algebra.nodes import AtMost, IndexedSum, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.algebra.reductions import Softmax
from derive.declare import forward
from derive.evaluation.fields import REAL
from derive.export.blocks import Math
from derive.export.functions import named_functions
from derive.export.latex import latex
from derive.export.text import text
from derive.export.trees import from_tree, to_tree
from derive.formula import parse_definition
from derive.language import EXAMPLES, page
from derive.layers import layer
from derive.names import FUNCTIONS, REDUCTIONS, Named, Namespace
from derive.record import Status
from derive.update import effective_update

AFFINE = "u[i] = sum[j](W[i, j]*x[j])"
PLAIN = {"sizes": "n m", "inputs": {"x": "n"}, "parameters": {"W": "m n"}}
MATRIX = {"sizes": "n m k", "inputs": {"x": "n"}, "parameters": {"W": "m k n"}}
SEQUENCE = {"sizes": "n T", "inputs": {"x": "T n"}, "parameters": {"w": "n"}}
LAYERS = {
    **{name: forward(name, **PLAIN, formulas=[AFFINE, f"z[i] = {name}(u[i])"]) for name in DEFINITIONS},
    "clip": forward("clip", **PLAIN, formulas=[AFFINE, "z[i] = clip(u[i], -1, 1/2)*sign(u[i])"]),
    "softmax": forward("softmax", **PLAIN, formulas=["z[i] = softmax[i](sum[j](W[i, j]*x[j]))"]),
    "logsumexp": forward("logsumexp", **MATRIX, formulas=["z[i] = logsumexp[l](sum[j](W[i, l, j]*x[j]))"]),
    "largest": forward("largest", **MATRIX, formulas=["z[i] = max[l](sum[j](W[i, l, j]*x[j]))"]),
    "smallest": forward("smallest", **MATRIX, formulas=["z[i] = min[l](sum[j](W[i, l, j]*x[j]), l != 1)"]),
    "product": forward("product", **MATRIX, formulas=["z[i] = prod[l](sum[j](W[i, l, j]*x[j]))"]),
    "spread": forward("spread", **PLAIN, formulas=[AFFINE, "z[i] = (u[i] - mean[i1](u[i1]))/sqrt(1 + var[i2](u[i2]))"]),
    "unit": forward("unit", **PLAIN, formulas=[AFFINE, "z[i] = u[i]/norm[l](u[l])"]),
    "running": forward("running", **SEQUENCE, formulas=["z[t] = cumsum[t](exp(sum[j](w[j]*x[t, j])))"]),
    "causal": forward(
        "causal",
        **SEQUENCE,
        formulas=["S[t, u] = sum[j](w[j]*x[t, j]*x[u, j])", "z[t, u] = softmax[u](S[t, u], u <= t)"],
    ),
    "band": forward(
        "band",
        **SEQUENCE,
        formulas=[
            "z[t:T] = sum[u](where(0 <= t - u < 2 and not t == 3, 2, 1/3)*sum[j](w[j]*x[u, j]), t != u or u > 1)"
        ],
    ),
}
layers = pytest.mark.parametrize("name", LAYERS)


@layers
def test_every_step_is_proved(name):
    derivation = effective_update(LAYERS[name]).check()
    assert {s.id: s.verdict for s in derivation.steps if s.verdict.status is not Status.PROVED} == {}


@layers
def test_results_go_through_every_export(name):
    factor = effective_update(LAYERS[name]).self_factor.expression
    assert from_tree(to_tree(factor)) == factor
    assert latex(factor) and "_1_0" not in text(factor)


def test_names_stay():
    assert text(effective_update(LAYERS["silu"]).self_factor.expression) == "silu'(u[s,i])**2*sum[j](x[s,j]**2)"
    assert "exp" not in text(effective_update(LAYERS["softmax"]).kernel)
    assert r"\operatorname{gelu}'\left( u_{s i} \right)" in latex(effective_update(LAYERS["gelu"]).kernel)
    assert text(LAYERS["causal"].output.expression) == "softmax[u](S[s,t,u], u <= t)"
    # a softmax weight that an intermediate defines is printed as that intermediate's entry
    shares = forward("shares", **PLAIN, formulas=[AFFINE, "p[i] = softmax[i](u[i])", "z[i] = p[i]**2"])
    assert "softmax" not in text(effective_update(shares).self_factor.expression)


@pytest.mark.parametrize("stem", DEFINITIONS)
@pytest.mark.parametrize("order", [0, 1])
def test_the_evaluation_agrees_with_the_definition(stem, order):
    function, at = named(stem, order), sympy.Rational(-7, 9)
    if (stem, order) == ("relu", 1):
        return
    with REAL.context():
        found = REAL.value(function, [REAL.constant(at)])
        slope = REAL.slopes(function, [REAL.constant(at)], found)[0]
        argument = sympy.Symbol("v", real=True)
        spelled = definition(function, argument)
        assert REAL.same(found, REAL.constant(sympy.N(spelled.subs(argument, at), 62)))
        assert REAL.same(slope, REAL.constant(sympy.N(spelled.diff(argument).subs(argument, at), 62)))


@pytest.mark.parametrize(
    ("owner", "wrong"),
    [
        (Softmax, lambda self, argindex=1: self),
        (named("silu"), lambda self, argindex=1: named("gelu", 1)(self.args[0])),
        (named("sigmoid"), lambda self, argindex=1: self * (1 + self)),
    ],
)
def test_a_wrong_derivative_is_caught(monkeypatch, owner, wrong):
    name = owner.__name__.lower()
    monkeypatch.setattr(owner, "fdiff", wrong)
    again = forward(
        f"wrong_{name}", **PLAIN, formulas=[AFFINE, f"z[i] = {name}{'[i]' if owner is Softmax else ''}(u[i])"]
    )
    assert Status.REFUTED in {s.verdict.status for s in effective_update(again).check().steps}


def test_a_comparison_is_decided_where_that_is_proved():
    i, j, n = Index("i", 4), Index("j", 4), sympy.Symbol("n", integer=True, positive=True)
    assert AtMost(i, 3) == 1 and AtMost(4, j) == 0 and AtMost(i, j).func is AtMost
    assert AtMost(i + 1, j + 1) == AtMost(i, j) and AtMost(i - j, 0) == AtMost(i, j)
    assert AtMost(0, n) == 1


def test_every_example_of_the_page_reads():
    known = Namespace(
        {name: size_symbol(name) for name in ("n", "m", "T", "L", "C", "O", "K", "V0")},
        {},
        {"alpha": sympy.Symbol("alpha", positive=True)},
    )
    shapes = {"x": "n", "W": "m n", "V": "m n", "b": "m", "u": "m", "w": "n", "F": "O C K", "X": "C L"}
    shapes |= {"S": "T T", "Y": "T n", "E": "V0 m"}
    for name, axes in shapes.items():
        known = known.with_tensor(name, Named(tensor(name), tuple(size_symbol(a) for a in axes.split())))
    known = known.with_tensor("token", Named(tensor("token", values=size_symbol("V0")), (sympy.Integer(1),)))
    for what, formula in EXAMPLES:
        assert parse_definition(formula, known), what
    shown = page()
    assert max(map(len, shown.split("\n"))) <= 120 and all(f" {name}" in shown for name in (*FUNCTIONS, *REDUCTIONS))


def test_a_document_says_what_its_functions_are():
    shown = [part.latex for part in named_functions(LAYERS["silu"]) if isinstance(part, Math)]
    assert shown == [r"\operatorname{silu}\left( v \right) = \frac{v}{e^{- v} + 1}"]
    assert named_functions(layer("affine")) == ()


def test_the_shares_of_a_softmax_add_up_to_one():
    shares = forward("shares_of", **PLAIN, formulas=[AFFINE, "p[i] = softmax[i](u[i])", "z[i] = p[i]**2"])
    s, i = shares.output.indices
    p = shares.definitions[1]
    assert normalise(IndexedSum(p.expression, i)) == 1
    assert presentable(normalise(3 * IndexedSum(p.base[s, i], i)), shares.scope) == 3
    masked = LAYERS["causal"].output
    assert normalise(IndexedSum(masked.expression, masked.indices[-1])) == 1
    assert normalise(IndexedSum(masked.expression, masked.indices[1])) != 1  # not so over queries
    assert normalise(IndexedSum(p.expression**2, i)) != 1
