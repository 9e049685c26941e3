"""Far rows, near the end of the range, in kernels: output and gradients as by the definition in float64."""

import pytest
import torch

from affine_divergence import functional
from tests.codegen.test_far_rows import KAPPA, MAPS, SHAPES, assert_right, definition, results, roundings

COUNT = 40  # rows: several blocks


def ours(name, x, weight, bias=None):
    function = functional.affine_like if name == "affine-like" else functional.norm_like
    return function(x, weight, bias, KAPPA, backend="triton")


def right(name, x, weight, bias=None):
    return definition(name, x, weight, bias)


def operands(name, size, shape, dtype=torch.float32):
    """Every other row has entries of the given size; products with weights of this size leave the range."""
    torch.manual_seed(0)
    columns, units = shape
    x, weight, bias = torch.randn(COUNT, columns).double(), torch.randn(units, columns), torch.randn(units)
    x[::2] = size * x[::2].sign() * (torch.rand(COUNT // 2, columns) + 1) / 2
    tensors = [x, weight] if "without" in name else [x, weight, bias]
    return [t.to(dtype).requires_grad_() for t in tensors], torch.randn(COUNT, units, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1e30, 1e38, 3e38])
@pytest.mark.parametrize("name", MAPS)
def test_far_rows(name, size, shape):
    tensors, g = operands(name, size, shape)
    mine = results(lambda *t: ours(name, *t), tensors, g)
    exact = results(lambda *t: right(name, *t), [t.detach().double().requires_grad_() for t in tensors], g.double())
    assert_right(mine, exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_far_rows_of_bfloat16(name, shape):
    tensors, _ = operands(name, 3e38, shape, torch.bfloat16)
    exact = right(name, *(t.detach().double() for t in tensors))
    assert roundings(ours(name, *tensors).detach(), exact) <= 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_rows_near_the_end_of_float64(name, shape):
    """For such long rows the definition is homogeneous, so it is evaluated at shorter ones."""
    tensors, _ = operands(name, 1.0, shape, torch.float64)
    x, *others = (t.detach() for t in tensors)
    far = x.clone()
    far[::2] *= 1e307
    x[::2] *= 1e100
    assert roundings(ours(name, far, *others), right(name, x, *others)) <= 32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_bit_of_a_row_depends_on_far_ones(shape):
    tensors, g = operands("affine-like", 1e38, shape)
    before = results(lambda *t: ours("affine-like", *t), tensors, g)
    with torch.no_grad():
        tensors[0][::2] = 1.0
    after = results(lambda *t: ours("affine-like", *t), tensors, g)
    for one, two in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one[1::2], two[1::2])
