"""PatchNorm's kernels on a GPU, if there is one, against a reference by patches in float64."""

import importlib.util

import pytest
import torch

from tests.codegen.targets.patch_problem import BRAIN, DOUBLE, KINDS, SINGLE, error, wide_problem

available = torch.cuda.is_available() and importlib.util.find_spec("cuda") is not None
pytestmark = pytest.mark.skipif(not available, reason="needs a CUDA device and cuda.core")

ROUNDING = {DOUBLE: 1e-12, SINGLE: 4e-6, BRAIN: 2e-2}


def on_device(case, dtype, layout=None):
    tensors, g = case.operands(dtype, layout)
    return [t.detach().cuda().requires_grad_() for t in tensors], g.cuda()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [DOUBLE, SINGLE, BRAIN], ids=str)
@pytest.mark.parametrize("layout", [None, torch.channels_last], ids=str)
def test_values_gradients_and_the_same_bits_again(kind, dtype, layout):
    case = wide_problem(*kind, 2, 1)
    tensors, g = on_device(case, dtype, layout)
    first, second = (case.results(tensors, g, backend="cuda") for _ in range(2))
    exact = case.exact([t.detach().cpu() for t in tensors], g.cpu())
    for a, again, b in zip(first, second, exact, strict=True):
        assert torch.equal(a, again) and error(a.cpu(), b) <= ROUNDING[dtype]


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_on_another_stream(kind):
    case = wide_problem(*kind, 2, 1)
    tensors, g = on_device(case, SINGLE)
    expected = case.results(tensors, g, backend="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        found = case.results(tensors, g, backend="cuda")
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
