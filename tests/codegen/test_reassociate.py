"""The backward program: equal to the derivation's gradients as expressions, to autograd by value, and efficient."""

import numpy
import pytest
import sympy
import torch

import derive
from codegen.ir.interpret import interpret
from codegen.ir.program import Contract, Pointwise, Program, ProgramError, name_of
from codegen.lower.gathering import lower
from codegen.passes.reassociate import explicit_in, gradients
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import IndexedSum, PartialDerivative, rename, tensor
from derive.declare import forward as declare

B, N, M = (size_symbol(n) for n in "Bnm")
s, i, j, k = Index("s", B), Index("i", M), Index("j", N), Index("k", N)
x, W, b, g = (tensor(n) for n in "xWbg")
kappa = sympy.Symbol("kappa", positive=True)


def meaning(backward, layer, result, indices):
    """Return a gradient in terms of inputs, parameters and the cotangent, at the given indices."""
    target = backward.program.values[result]
    saved = explicit_in(target.entry, backward.program, backward.saved)
    return rename(expand_definitions(saved, layer.scope), dict(zip(target.indices, indices, strict=True)))


def test_gradients_equal_those_of_the_derivation(solution, backward):
    for step in derive.backward(solution.mapped):
        result = step.id.rsplit("/", 1)[1].removeprefix("backward-")
        (inert,) = step.before.atoms(PartialDerivative)
        expected = expand_definitions(step.after, solution.mapped.scope)
        assert equal(meaning(backward, solution.mapped, result, inert.variable.indices), expected), step.id


def theory(name):
    """Section 8 of the theory: dx = s W^T g - s^2 (g.z) x and similar, with s = 1/sqrt(|x|^2 + 1) and kappa = 1."""
    length = IndexedSum(x[s, k] ** 2, k)
    back = IndexedSum(W[i, j] * g[s, i], i)
    product = IndexedSum(W[i, k] * x[s, k], k)
    if name == "affine-like":
        scale, z = 1 / sympy.sqrt(length + 1), 1 / sympy.sqrt(length + 1) * (product + b[i])
        return scale * back - scale**2 * IndexedSum(g[s, i] * z, i) * x[s, j]
    scale = 1 / sympy.sqrt(length)
    unit = x[s, j] * scale
    along = IndexedSum(W[i, k] * g[s, i] * x[s, k] * scale, i, k)
    return scale * (back - along * unit)


def test_input_gradient_equals_the_theory(solution, backward):
    name = solution.mapped.name
    ours = meaning(backward, solution.mapped, "dx", (s, j))
    at_ideal = rename(ours, {kappa: sympy.Integer(2 if name == "norm-like" else 1)})
    assert equal(at_ideal, theory(name.removeprefix("linear/")))


def test_one_number_a_row_is_saved_and_the_pre_activation_is_not_recomputed(forward, backward):
    assert backward.saved == ("f",)
    read = {v.name for v in backward.program.inputs}
    assert read <= {"g", "x", "W", "b", "f"}
    products = [c for c in backward.program.instructions if isinstance(c, Contract)]
    pairs = [frozenset(name_of(o) for o in c.operands) for c in products]
    assert frozenset("xW") not in pairs and frozenset("uW") not in pairs
    assert pairs.count(frozenset("gW")) == 1, "W^T g is computed once and used twice"


def test_narrow_factors_are_computed_at_their_own_width(backward):
    (dx,) = [p for p in backward.program.instructions if p.target.name == "dx"]
    assert isinstance(dx, Pointwise)
    assert dx.expression.count_ops() <= 4, "full width needs only two products and a difference"


def random_inputs(program, rng, sizes):
    lengths = {str(symbol): length for symbol, length in sizes.items()}
    return {v.name: rng.normal(size=[lengths[str(index.size)] for index in v.indices]) for v in program.inputs}


FORMULAS = {
    "affine": ["z[i] = sum[j](W[i, j]*x[j]) + b[i]"],
    "tanh": ["z[i] = tanh(sum[j](W[i, j]*x[j]) + b[i])"],
    "row mean": ["u[j] = x[j] - sum[k](x[k])/n", "z[i] = sum[j](W[i, j]*u[j]) + b[i]"],
    "softmax-like": ["E = sum[j](exp(x[j]))", "z[i] = sum[j](W[i, j]*exp(x[j]))/E + b[i]"],
    "two scales": ["E = sum[j](x[j]**2)", "z[i] = sum[j](W[i, j]*x[j])/sqrt(E + 1) + b[i]*exp(-E/9)"],
    "product": ["z[i] = sum[j](W[i, j]*x[j])*sum[j](W[i, j]*x[j]**2) + b[i]"],
}


def torch_value(name, x, W, b):
    y, length = x @ W.T, (x * x).sum(-1, keepdim=True)
    return {
        "affine": lambda: y + b,
        "tanh": lambda: torch.tanh(y + b),
        "row mean": lambda: (x - x.mean(-1, keepdim=True)) @ W.T + b,
        "softmax-like": lambda: x.exp() @ W.T / x.exp().sum(-1, keepdim=True) + b,
        "two scales": lambda: y / torch.sqrt(length + 1) + b * torch.exp(-length / 9),
        "product": lambda: y * (x**2 @ W.T) + b,
    }[name]()


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_equal_autograd(name):
    layer = declare("mine", sizes="n m", inputs={"x": "n"}, parameters={"W": "m n", "b": "m"}, formulas=FORMULAS[name])
    forward = lower(layer)
    sizes = {"B": 5, "n": 4, "m": 3}
    check_against_autograd(forward, sizes, lambda x, W, b: torch_value(name, x, W, b))


def check_against_autograd(forward, sizes, function):
    rng = numpy.random.default_rng(2)
    arrays = random_inputs(forward, rng, sizes)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays.values()]
    z = function(*tensors)
    cotangent = torch.tensor(rng.normal(size=z.shape))
    expected = torch.autograd.grad(z, tensors, cotangent)
    backward = gradients(forward, list(arrays))
    kept = Program("kept", forward.inputs, forward.scalars, forward.instructions, backward.saved)
    saved = interpret(kept, arrays, {"kappa": 1.7}, sizes)
    results = interpret(backward.program, {**arrays, **saved, "g": cotangent.numpy()}, {"kappa": 1.7}, sizes)
    for name, gradient in zip(arrays, expected, strict=True):
        numpy.testing.assert_allclose(results[f"d{name}"], gradient.numpy(), rtol=1e-11, atol=1e-12)


REFERENCES = {
    "affine-like": lambda x, W, b: 1.7**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1),
    "norm-like": lambda x, W, b: 0.7**0.5 * x @ W.T / x.norm(dim=-1, keepdim=True) + b,
    "linear/norm-like": lambda x, W: 1.7**0.5 * x @ W.T / x.norm(dim=-1, keepdim=True),
}


def test_map_gradients_equal_autograd(solution, forward):
    check_against_autograd(forward, {"B": 5, "n": 4, "m": 3}, REFERENCES[solution.mapped.name])


def test_a_corrupted_pass_is_caught(solution, forward, monkeypatch):
    """A wrong derivative rule must fail the tests above."""
    from codegen.passes import differentiate

    right = differentiate.slope
    monkeypatch.setattr(differentiate, "slope", lambda *arguments: 2 * right(*arguments))
    with pytest.raises(AssertionError):
        test_map_gradients_equal_autograd(solution, forward)


def test_an_unknown_name_is_refused(forward):
    with pytest.raises(ProgramError, match="no input 'V'"):
        gradients(forward, ["V"])


def test_only_the_wanted_gradients_are_computed(forward):
    only = gradients(forward, ["W"]).program
    assert only.outputs == ("dW",)
    assert "gW" not in only.values
