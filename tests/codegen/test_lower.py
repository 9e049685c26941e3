"""Layers as programs: the interpreter's value equals NumPy's for the formula."""

import numpy
import pytest

from codegen.ir.interpret import interpret
from codegen.ir.program import Contract
from codegen.lower.gathering import lower
from derive.declare import forward

SIZES = {"B": 5, "n": 4, "m": 3}
rng = numpy.random.default_rng(1)
x, W, V = rng.normal(size=(5, 4)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
b, M = rng.normal(size=3), rng.normal(size=(3, 3))
ARRAYS = {"x": x, "W": W, "V": V, "b": b, "M": M}
AXES = {"W": "m n", "V": "m n", "b": "m", "M": "m m"}


def layer(*formulas, parameters="W b"):
    chosen = {name: AXES[name] for name in parameters.split()}
    return forward("mine", sizes="n m", inputs={"x": "n"}, parameters=chosen, formulas=list(formulas))


CASES = [
    ("W b", ["z[i] = sum[j](W[i, j]*x[j]) + b[i]"], x @ W.T + b),
    ("W b", ["z[i] = 3*sum[j](W[i, j]*x[j]*b[i])/2"], 1.5 * (x @ W.T) * b),
    ("W V", ["z[i] = sum[j](W[i, j]*tanh(sum[k](V[i, k]*x[k])*x[j]))"], None),
    ("W", ["z[i] = sum[j](W[i, j]*exp(x[j]))"], numpy.exp(x) @ W.T),
    ("W V", ["u[i] = sum[j](W[i, j]*x[j])", "z[i] = u[i]*tanh(sum[j](V[i, j]*x[j]))"], (x @ W.T) * numpy.tanh(x @ V.T)),
    ("W M", ["z[i] = sum[k](M[i, k]*sum[j](W[k, j]*x[j]))"], x @ W.T @ M.T),
    ("b", ["z[i] = (sum[j](x[j]**2) + 1)**2*b[i]"], ((x**2).sum(1, keepdims=True) + 1) ** 2 * b),
    ("W b", ["z[i] = sum[j]((W[i, j] + b[i])*x[j]**3)"], x**3 @ W.T + (x**3).sum(1, keepdims=True) * b),
    ("W b", ["z[i] = sum[j](W[i, j])*b[i]*sum[j](x[j])"], W.sum(1) * b * x.sum(1, keepdims=True)),
    ("b", ["z[i] = sum[j:n](b[i] + 2)*sum[j](x[j])"], 4 * (b + 2) * x.sum(1, keepdims=True)),
    # positions, and a diagonal
    ("W b", ["z[i] = sum[j](W[i, 2*j]*x[j]) + b[i]"], x[:, :2] @ W[:, ::2].T + b),
    ("W", ["z[i] = x[2*i] + sum[j](W[i, j]*x[j])"], numpy.pad(x, ((0, 0), (0, 2)))[:, ::2] + x @ W.T),
    ("M b", ["z[i] = M[i, i]*b[i] + sum[j](x[j])"], numpy.diag(M) * b + x.sum(1, keepdims=True)),
    ("W b", ["z[i] = sum[j](x[j])*W[i, 0] + b[i]"], x.sum(1, keepdims=True) * W[:, 0] + b),
]


@pytest.mark.parametrize(("parameters", "formulas", "expected"), CASES)
def test_formula(parameters, formulas, expected):
    program = lower(layer(*formulas, parameters=parameters))
    arrays = {v.name: ARRAYS[v.name] for v in program.inputs}
    if expected is None:
        inner = numpy.einsum("ik,sk->si", V, x)
        expected = numpy.einsum("ij,sij->si", W, numpy.tanh(inner[:, :, None] * x[:, None, :]))
    numpy.testing.assert_allclose(interpret(program, arrays, {}, SIZES)["z"], expected, rtol=1e-12)


def test_a_factor_without_the_summed_index_stays_outside_the_contraction():
    program = lower(layer("z[i] = sum[j](b[i]*W[i, j]*x[j])"))
    (contract,) = [k for k in program.instructions if isinstance(k, Contract)]
    assert {str(o.base) for o in contract.operands} == {"x", "W"}


def test_a_contraction_is_emitted_once():
    program = lower(layer("z[i] = sum[j](W[i, j]*x[j]) + tanh(sum[k](W[i, k]*x[k]))", parameters="W"))
    assert len([k for k in program.instructions if isinstance(k, Contract)]) == 1


def test_equations_are_named_after_the_layer(forward, solution):
    named = {k.target.name: k.equation for k in forward.instructions if k.equation}
    name = solution.mapped.name
    assert named == {"E": f"{name}/define-E", "f": f"{name}/define-f", "z": f"{name}/forward"}
