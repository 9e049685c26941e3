"""The kernels on a GPU, if there is one: against torch's operations and float64, and device-only features."""

import importlib.util
import os

import pytest
import torch

from tests.codegen.targets.cuda.test_host import (
    BRAIN,
    DOUBLE,
    HALF,
    MAPS,
    ROUNDING,
    SINGLE,
    error,
    function,
    kappa,
    maps,
    operands,
)

available = torch.cuda.is_available() and importlib.util.find_spec("cuda") is not None
pytestmark = pytest.mark.skipif(not available, reason="needs a CUDA device and cuda.core")
types = pytest.mark.parametrize("dtype", [DOUBLE, SINGLE, HALF, BRAIN], ids=str)


@pytest.fixture
def device(host, monkeypatch, tmp_path_factory):
    """The package on the real device."""
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(os.path.dirname(os.path.dirname(host.launch.__file__))))
    monkeypatch.setenv("AFFINE_DIVERGENCE_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))
    host.forget()
    return host


def on_device(name, shape, dtype):
    return [t.detach().cuda().requires_grad_() for t in operands(name, shape, dtype)]


def results(ours, inputs, g):
    z = ours(*inputs, kappa=kappa)
    return (z, *torch.autograd.grad(z, inputs, g))


@maps
@types
@pytest.mark.parametrize(
    "shape", [(9, 19, 13), (128, 512, 512), (4096, 1024, 768), (65600, 32, 48), (3, 5000, 3)], ids=str
)
def test_error_stays_at_the_rounding_of_the_result(device, name, dtype, shape):
    inputs = on_device(name, shape, dtype)
    g = torch.randn(shape[0], shape[2], dtype=DOUBLE, device="cuda").to(dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = results(lambda *a, kappa: MAPS[name][0](*a, kappa), exact, g.double())
    plain = getattr(device.plain, name.removesuffix("_without_bias"))
    for k, (a, e, t) in enumerate(
        zip(results(function(device, name), inputs, g), expected, results(plain, inputs, g), strict=True)
    ):
        floor = ROUNDING[dtype] * (1.8 if k == 2 and dtype.itemsize < 4 else 1.1)
        assert error(a, e) <= max(1.05 * error(t, e), floor * (1 if e.numel() >= 200 else 2)), k


@maps
@types
def test_the_same_input_gives_the_same_bits(device, name, dtype):
    inputs = on_device(name, (5000, 300, 700), dtype)
    g = torch.randn(5000, 700, device="cuda").to(dtype)
    first, second = (results(function(device, name), inputs, g) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@maps
def test_another_stream_and_a_captured_graph(device, name):
    inputs = [t.detach() for t in on_device(name, (256, 128, 64), SINGLE)]
    ours = function(device, name)
    expected = ours(*inputs, kappa=kappa)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        z = ours(*inputs, kappa=kappa)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(z, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ours(*inputs, kappa=kappa)
    inputs[0].mul_(2)
    graph.replay()
    assert torch.equal(captured, ours(*inputs, kappa=kappa))


def test_extremes(device):
    W, b = torch.randn(8, 16, device="cuda"), torch.randn(8, device="cuda")
    for dtype, size in ((SINGLE, 1e30), (BRAIN, 1e30), (SINGLE, 1e-30), (HALF, 1e4)):
        x = (torch.randn(5, 16, device="cuda") * size).to(dtype)
        z = device.functions.affine_like(x, W.to(dtype), b.to(dtype))
        assert z.isfinite().all()
        exact = MAPS["affine_like"][0](x.double(), W.to(dtype).double(), b.to(dtype).double(), 1.0)
        assert error(z, exact) <= 2.5 * ROUNDING[dtype]


def test_autocast_takes_products_in_its_type(device):
    x, W, b = (t.detach() for t in on_device("affine_like", (64, 32, 16), SINGLE))
    W.requires_grad_()
    with torch.autocast("cuda", dtype=BRAIN):
        z = device.functions.affine_like(x, W, b)
    z.float().sum().backward()
    assert z.dtype == BRAIN and W.grad.dtype == SINGLE


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_device(device):
    inputs = [t.detach().to("cuda:1") for t in on_device("affine_like", (64, 32, 16), SINGLE)]
    z = device.functions.affine_like(*inputs)
    assert z.device.index == 1
    torch.testing.assert_close(z, device.plain.affine_like(*inputs))
