"""The effect of update rules other than plain descent on the activations: the theory's section 7, and numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy
from sympy import Abs, Expr, KroneckerDelta, sign

import derive
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, rename, tensor
from derive.check import check_step
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import Real
from derive.evaluation.points import Point
from derive.forward_map import BATCH as s
from derive.forward_map import LayerError
from derive.record import Derivation, Status
from derive.rules import RULES

n, m = size_symbol("n"), size_symbol("m")
i, j = Index("i", m), Index("j", n)
s_, i_ = s.primed(), i.primed()
x, W, g, h = (tensor(name) for name in ("x", "W", "g", "h_foof"))
velocity, drift = tensor("M_W"), tensor("M_b")
eta, mu = (sympy.Symbol(name, positive=True) for name in ("eta", "mu"))
decay = sympy.Symbol("lambda", positive=True)
inner = IndexedSum(x[s, j] * x[s_, j], j) + 1
square = IndexedSum(x[s_, j] ** 2, j) + 1
plain = -eta * IndexedSum(inner * g[s_, i], s_)

CHANGES: dict[tuple[str, str], Expr] = {
    ("momentum", "momentum-change"): plain - eta * mu * (IndexedSum(velocity[i, j] * x[s, j], j) + drift[i]),
    ("weight-decay", "weight-decay-change"): plain - eta * decay * IndexedSum(W[i, j] * x[s, j], j),
    ("sign", "sign-change"): -eta * sign(g[s, i]) * (IndexedSum(Abs(x[s, j]), j) + 1),
    ("nlms", "nlms-change"): -eta * IndexedSum(inner / square * g[s_, i], s_),
    ("nlms", "nlms-self-factor"): KroneckerDelta(i, i_),
    ("foof", "foof-change"): -eta * IndexedSum(inner * h[s_, i], s_),
}


def under(rule: str, layer: str = "affine") -> Derivation:
    return derive.effective_update(derive.layer(layer), rule)


@pytest.mark.parametrize(("rule", "step"), CHANGES, ids=[step for _, step in CHANGES])
def test_the_change_is_the_one_of_the_theory(rule: str, step: str) -> None:
    found = under(rule).step(step).after
    assert equal(found, CHANGES[rule, step])
    assert not equal(found, 2 * CHANGES[rule, step])


def test_every_rule_is_tried_here() -> None:
    assert {rule for rule, _ in CHANGES} == set(RULES)


def test_the_self_factor_under_a_rule() -> None:
    """The sign limit has the one-norm instead of the square; NLMS and FOOF reach the ideal step."""
    assert equal(under("sign").self_factor.expression, IndexedSum(Abs(x[s, j]), j) + 1)
    assert equal(under("sign", "linear").self_factor.expression, IndexedSum(Abs(x[s, j]), j))
    for rule in ("nlms", "foof"):
        assert under(rule).self_factor.expression == 1
    for rule in ("momentum", "weight-decay"):
        assert equal(under(rule).self_factor.expression, rename(square, {s_: s}))
    assert under("foof").cross_terms == 0


@pytest.mark.parametrize("rule", RULES)
def test_every_step_is_verified_and_a_wrong_one_refuted(rule: str) -> None:
    checked = under(rule).check()
    assert {step.verdict.status for step in checked.steps} == {Status.PROVED}
    last = checked.steps[-1]
    assert check_step(replace(last, after=2 * last.after)).status is Status.REFUTED


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_foof_in_numbers(damping: float) -> None:
    """The whole-batch step ``G^T X (X^T X + lambda)^-1``, with X = [x, 1], against the derived ``K h``."""
    batch, width, units = 3, 4, 2
    here = Point(5, {s.size: batch, n: width, m: units}, Real(), {})
    draw = np.vectorize(lambda name, a, b: float(here.draw(name, (int(a), int(b)))))
    inputs = np.column_stack([draw("x", *np.indices((batch, width))), np.ones(batch)])
    solved = draw("h_foof", *np.indices((batch, units)))
    kernel = inputs @ inputs.T
    gradient = (kernel + damping * np.eye(batch)) @ solved
    # The solution of least norm, since at lambda = 0 the second moment has no inverse.
    moment = np.linalg.pinv(inputs.T @ inputs + damping * np.eye(width + 1), rcond=1e-10)
    change = -inputs @ (moment @ inputs.T @ gradient)
    after = under("foof").step("foof-change").after.xreplace({eta: sympy.S.One})
    with here.field.context():
        derived = [[float(evaluate(after, {s: a, i: b}, here)) for b in range(units)] for a in range(batch)]
    assert np.allclose(derived, change, rtol=1e-9)
    assert np.allclose(change, -gradient, rtol=1e-9) == (damping == 0)


def test_layers_that_a_rule_does_not_fit_are_refused() -> None:
    with pytest.raises(LayerError, match="linear in their parameters"):
        under("momentum", "low-rank")
