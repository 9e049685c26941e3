"""The kernels on a GPU, if there is one: against float64, and against plain torch."""

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here; the interpreter runs the kernels")

KAPPA = 1.7
SHAPES = [(1, 16, 16), (333, 100, 70), (4096, 256, 256), (1000, 512, 512), (777, 1030, 513), (8192, 2048, 1536)]
TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
ROUNDING = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2.1e-4 * 1.1, torch.bfloat16: 1.66e-3 * 1.1}


def operands(shape, dtype, bias=True):
    B, n, m = shape
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = [(B, n), (m, n), *([(m,)] if bias else []), (B, m)]
    *tensors, g = (torch.randn(s, generator=generator, device="cuda", dtype=torch.float64).to(dtype) for s in shapes)
    return [t.requires_grad_() for t in tensors], g


def affine_like(x, W, b, kappa):
    return kappa**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1)


def norm_like(x, W, b, kappa):
    return (kappa - 1) ** 0.5 * (x / x.norm(dim=-1, keepdim=True)) @ W.T + b


MAPS = {"affine_like": affine_like, "norm_like": norm_like}


def run(function, tensors, g):
    z = function(*tensors, KAPPA)
    return [z.detach(), *torch.autograd.grad(z, tensors, g)]


@pytest.fixture
def kernels():
    from affine_divergence.kernels.triton import functional as triton_functional

    return triton_functional


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_value_and_gradients(name, shape, dtype, kernels):
    tensors, g = operands(shape, dtype)
    exact = run(MAPS[name], [t.detach().double().requires_grad_() for t in tensors], g.double())
    ours = run(getattr(kernels, name), tensors, g)
    for part, mine, right in zip(("z", "dx", "dW", "db"), ours, exact, strict=True):
        error = (mine.double() - right).norm() / right.norm()
        assert mine.dtype == dtype and error <= ROUNDING[dtype] * (2 if part in ("dW", "db") else 1), (part, error)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits_again(shape, kernels):
    tensors, g = operands(shape, torch.bfloat16)
    first, second = (run(kernels.affine_like, tensors, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 1e4), (torch.bfloat16, 1e30), (torch.float32, 1e-30)])
@pytest.mark.parametrize("n", [100, 1000])
def test_magnitudes(n, dtype, size, kernels):
    (x, *rest), g = operands((64, n, 40), dtype)
    x = (x.detach().double() * size).clamp(-6e4 if dtype == torch.float16 else None, None).to(dtype).requires_grad_()
    results = run(kernels.affine_like, [x, *rest], g)
    exact = run(affine_like, [t.detach().double().requires_grad_() for t in (x, *rest)], g.double())
    assert all(t.isfinite().all() for t in results)
    assert (results[0].double() - exact[0]).norm() <= 2 * ROUNDING[dtype] * exact[0].norm()


def test_captured_in_a_graph(kernels):
    tensors, g = operands((256, 300, 700), torch.bfloat16)
    expected = run(kernels.affine_like, tensors, g)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(kernels.affine_like, tensors, g)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_on_another_stream(kernels):
    tensors, g = operands((4096, 300, 700), torch.bfloat16)
    expected = run(kernels.affine_like, tensors, g)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results = run(kernels.affine_like, tensors, g)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_more_than_two_to_the_31_elements(kernels):
    """Rows beyond 32-bit offsets; the batch has far more than 65535 blocks."""
    B, n = (1 << 31) // 64 + 128, 64
    x = torch.randn(128, n, device="cuda", dtype=torch.bfloat16).repeat(B // 128, 1)
    W, b = torch.randn(16, n, device="cuda", dtype=torch.bfloat16), torch.randn(16, device="cuda", dtype=torch.bfloat16)
    z = kernels.affine_like(x, W, b)
    assert torch.equal(z[-128:], z[:128])
