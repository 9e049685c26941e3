"""Queries and keys of unit length on a GPU, if there is one: every target against the formula in float64."""

import importlib
import importlib.util

import pytest
import torch

from tests.codegen.targets.unit_pairs import BRAIN, DOUBLE, HALF, ROUNDING, SINGLE, expected, operands, results, worst

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the kernels are run on the CPU")
NEEDS = {"torch": "torch", "triton": "triton", "cuda": "cuda"}
SHAPES = [(2, 3, 7, 5, 19), (4, 16, 1024, 1024, 64), (8, 8, 512, 2048, 128), (1, 1, 70000, 3, 8), (1, 2, 9, 9, 5000)]


@pytest.fixture(params=NEEDS)
def pair(request):
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"{request.param}'s compiler is not installed")
    name = f"kernels.{request.param}.unit"
    return importlib.import_module(f"affine_divergence.{name}").UnitPair


@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE, HALF, BRAIN], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_and_gradients_are_those_of_the_formula(pair, shape, dtype):
    tensors, gradients = operands(shape, dtype, "cuda")
    if shape[-1] > 1000 or shape[2] > 1000:  # the projection matrix would be large: use the formula's product instead
        exact = [x.detach().double().requires_grad_() for x in tensors]
        rows = [x / x.norm(dim=-1, keepdim=True) for x in exact]
        right = [t.detach() for t in (*rows, *torch.autograd.grad(rows, exact, [g.double() for g in gradients]))]
    else:
        right = expected(tensors, gradients)
    assert worst(results(pair, tensors, gradients), right) <= 1.2 * ROUNDING[dtype]


def test_the_same_bits_again_on_another_stream_and_in_a_graph(pair):
    tensors, gradients = operands((2, 8, 256, 300, 64), BRAIN, "cuda")
    first = results(pair, tensors, gradients)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        again = results(pair, tensors, gradients)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        captured = results(pair, tensors, gradients)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, captured, strict=True))


@pytest.mark.parametrize(("dtype", "size"), [(HALF, 1e4), (BRAIN, 1e30), (SINGLE, 1e30), (SINGLE, 1e-15)])
def test_any_length(pair, dtype, size):
    tensors, gradients = operands((2, 2, 30, 40, 64), dtype, "cuda")
    long = [
        (x.detach().double() * size).clamp(-6e4, 6e4) if dtype == HALF else x.detach().double() * size for x in tensors
    ]
    tensors = [x.to(dtype).requires_grad_() for x in long]
    ours = results(pair, tensors, gradients)
    assert all(t.isfinite().all() for t in ours)
    assert worst(ours[:2], expected(tensors, gradients)[:2]) <= 1.2 * ROUNDING[dtype]


def test_zero_stays_zero(pair):
    zeros = torch.zeros(1, 2, 3, 64, device="cuda", requires_grad=True)
    u = pair.apply(zeros, zeros)[0]
    assert not u.any() and not torch.autograd.grad(u.sum(), zeros)[0].any()
