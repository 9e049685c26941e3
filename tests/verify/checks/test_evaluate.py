"""Derived expressions evaluated on arrays, against einsum and the exact evaluator of derive."""

import numpy as np
import pytest
import sympy

import derive
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import Divides, IndexedSum, PartialDerivative, Within, tensor
from verify.checks.evaluate import Point, evaluate

B, n, m = (size_symbol(letter) for letter in "Bnm")
s, i, j = Index("s", B), Index("i", m), Index("j", n)
W, x, b = tensor("W"), tensor("x"), tensor("b")
SIZES = {"B": 4, "n": 3, "m": 2}


@pytest.fixture
def point():
    random = np.random.default_rng(0)
    tensors = {"W": random.normal(size=(2, 3)), "x": random.normal(size=(4, 3)), "b": random.normal(size=2)}
    affine = derive.layer("affine")
    return Point(tensors, {"kappa": 2.5, "eta": 0.1}, {"z": affine.output}, SIZES)


def test_affine_forward_map(point):
    expected = point.tensors["x"] @ point.tensors["W"].T + point.tensors["b"]
    affine = derive.layer("affine")
    np.testing.assert_allclose(evaluate(affine.output.expression, affine.output.indices, point), expected)
    np.testing.assert_allclose(
        evaluate(tensor("z")[s, i], (i, s), point), expected.T, err_msg="axes follow the request"
    )


@pytest.mark.parametrize(
    ("expression", "axes", "expected"),
    [
        (sympy.KroneckerDelta(s, s.primed()), (s, s.primed()), np.eye(4)),
        (IndexedSum(x[s, j] * x[s.primed(), j], j), (s, s.primed()), lambda t: t["x"] @ t["x"].T),
        (IndexedSum(IndexedSum(x[s, j], j) * x[s, j], j), (s,), lambda t: t["x"].sum(1) ** 2),
        (sympy.sqrt(sympy.Symbol("kappa", positive=True)) / n, (), 2.5**0.5 / 3),
        (Within(j - 1, n) * x[s, j - 1], (s, j), lambda t: np.pad(t["x"], ((0, 0), (1, 0)))[:, :3]),
        (Divides(2, j), (j,), np.array([1.0, 0.0, 1.0])),
        (sympy.Integer(1), (s, i), np.ones((4, 2))),
    ],
)
def test_nodes(point, expression, axes, expected):
    wanted = expected(point.tensors) if callable(expected) else expected
    np.testing.assert_allclose(evaluate(expression, axes, point), wanted)


def test_kernels_of_the_maps_are_symmetric_and_positive(point):
    for found in derive.solve(derive.layer("affine")):
        at = Point(point.tensors, point.scalars, {d.name: d for d in found.mapped.definitions}, SIZES)
        derivation = derive.effective_update(found.mapped)
        axes = derivation.layer.output.indices
        kernel = evaluate(derivation.kernel, (*axes, *(a.primed() for a in axes)), at).reshape(8, 8)
        np.testing.assert_allclose(kernel, kernel.T)
        assert np.linalg.eigvalsh(kernel).min() > -1e-12
        np.testing.assert_allclose(np.diag(kernel), 2.5)


def test_what_has_no_value_is_refused(point):
    with pytest.raises(TypeError, match="no rule to evaluate PartialDerivative on arrays"):
        evaluate(PartialDerivative(x[s, j], x[s, j]), (s, j), point)
