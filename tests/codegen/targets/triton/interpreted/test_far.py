"""Rows near the end of the range by kernels: the output and the gradients of the definition in float64."""

import math

import pytest
import torch

from affine_divergence import functional

KAPPA, ROWS = 1.3, 40
SHAPES = [(40, 24), (1100, 8)]  # columns and units: whole rows in a tile, and a walk along them
MAPS = {"affine-like": True, "norm-like": True, "norm-like without a bias": False}


def definition(name, x, weight, bias=None):
    squares, product = x.square().sum(-1, keepdim=True), x @ weight.mT
    if name == "affine-like":
        return math.sqrt(KAPPA) * (product + bias) / torch.sqrt(squares + 1)
    if bias is None:
        return math.sqrt(KAPPA) * product / torch.sqrt(squares)
    return math.sqrt(KAPPA - 1) * product / torch.sqrt(squares) + bias


def ours(name, x, weight, bias=None):
    function = functional.affine_like if name == "affine-like" else functional.norm_like
    return function(x, weight, bias, KAPPA, backend="triton")


def operands(name, size, shape, dtype=torch.float32):
    """Every other row has entries of the given size; products with weights of this size leave the range."""
    torch.manual_seed(0)
    columns, units = shape
    x, weight, bias = torch.randn(ROWS, columns).double(), torch.randn(units, columns), torch.randn(units)
    x[::2] = size * x[::2].sign() * (torch.rand(ROWS // 2, columns) + 1) / 2
    tensors = [x, weight, bias] if MAPS[name] else [x, weight]
    return [t.to(dtype).requires_grad_() for t in tensors], torch.randn(ROWS, units, dtype=dtype)


def results(run, tensors, g):
    z = run(*tensors)
    return [z.detach(), *torch.autograd.grad(z, tensors, g)]


def roundings(mine, exact):
    limits = torch.finfo(mine.dtype)
    return float((mine.double() - exact).abs().max() / exact.abs().max().clamp(limits.tiny) / limits.eps)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1e30, 1e38, 3e38])
@pytest.mark.parametrize("name", MAPS)
def test_far_rows(name, size, shape):
    tensors, g = operands(name, size, shape)
    mine = results(lambda *t: ours(name, *t), tensors, g)
    exact = results(
        lambda *t: definition(name, *t), [t.detach().double().requires_grad_() for t in tensors], g.double()
    )
    for tensor, right in zip(mine[:1] + mine[2:], exact[:1] + exact[2:], strict=True):
        assert roundings(tensor, right) <= 32
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        assert roundings(mine[1][rows], exact[1][rows]) <= 32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_far_rows_of_bfloat16(name, shape):
    tensors, _ = operands(name, 3e38, shape, torch.bfloat16)
    exact = definition(name, *(t.detach().double() for t in tensors))
    assert roundings(ours(name, *tensors).detach(), exact) <= 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_rows_near_the_end_of_float64(name, shape):
    """The definition is homogeneous in rows so long, and is asked of shorter ones."""
    tensors, _ = operands(name, 1.0, shape, torch.float64)
    x, *others = (t.detach() for t in tensors)
    far = x.clone()
    far[::2] *= 1e307
    x[::2] *= 1e100
    assert roundings(ours(name, far, *others), definition(name, x, *others)) <= 32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_bit_of_a_row_depends_on_far_ones(shape):
    tensors, g = operands("affine-like", 1e38, shape)
    before = results(lambda *t: ours("affine-like", *t), tensors, g)
    with torch.no_grad():
        tensors[0][::2] = 1.0
    after = results(lambda *t: ours("affine-like", *t), tensors, g)
    for one, two in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one[1::2], two[1::2])
