"""The row scale for rows that are safe to square: the same numbers as the general path, in fewer calls."""

from __future__ import annotations

import inspect
import math
from types import ModuleType

import pytest
import torch
from torch import nn

from affine_divergence.kernels.torch import affine_like as torch_affine_like
from affine_divergence.kernels.torch import norm_like as torch_norm_like
from affine_divergence.kernels.torch import norm_like_without_bias as torch_norm_like_without_bias
from affine_divergence.kernels.torch.patch_affine_like import PatchAffineLike
from affine_divergence.runtime import rows as rows_module

CLASSES = {
    torch_affine_like: torch_affine_like.AffineLike,
    torch_norm_like: torch_norm_like.NormLike,
    torch_norm_like_without_bias: torch_norm_like_without_bias.NormLikeWithoutBias,
}
maps = pytest.mark.parametrize("module", CLASSES, ids=lambda module: module.__name__.rsplit("._", 1)[-1])
types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def scale_of(module: ModuleType, x: torch.Tensor) -> torch.Tensor:
    """Return the row scale of the map itself, at kappa 3."""
    W, b = torch.randn(5, x.shape[1], dtype=x.dtype), torch.randn(5, dtype=x.dtype)
    operands = (x, W) if module is torch_norm_like_without_bias else (x, W, b)
    return CLASSES[module].apply(*operands, 3.0)[1]


@maps
@types
@pytest.mark.parametrize("power", [-60, -30, -14, -5, 0, 5, 14, 18, 30, 60])
def test_the_scale_is_the_one_of_any_magnitude(module, dtype, power):
    """For rows on both sides of the limits of safe squares, also within one matrix."""
    torch.manual_seed(0)
    x = torch.randn(6, 7, dtype=torch.float64) * 10.0 ** min(max(power, -37 if dtype == torch.float32 else -99), 37)
    x = torch.cat([x, torch.randn(1, 7, dtype=torch.float64)])
    for rows in (x.to(dtype), x[:6].to(dtype)):
        exact = module.scale(rows.double(), 3.0)
        torch.testing.assert_close(scale_of(module, rows).double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0)


@types
def test_squares_are_taken_only_where_that_is_safe(dtype):
    limits = torch.finfo(dtype)
    for row, safe in (
        (1.0, True),
        (0.0, False),
        (limits.tiny**0.5, False),
        (limits.max**0.5, False),
        (math.nan, False),
    ):
        x = torch.ones(3, 4, dtype=dtype)
        x[1] = row
        found, unsafe = rows_module.safe_squares(x)
        assert (unsafe is None) is safe
        assert unsafe is None or unsafe.flatten().tolist() == [False, True, False]
        kept = slice(None) if safe else slice(0, 3, 2)
        torch.testing.assert_close(found[kept], x[kept].square().sum(-1, keepdim=True))
    assert rows_module.safe_squares(torch.empty(0, 4, dtype=dtype)) == (None, None)
    assert rows_module.safe_squares(nn.Parameter(torch.ones(2, 2)))[1] is None


def test_a_limit_that_lets_too_much_through_is_seen(monkeypatch):
    """Without the check, squares of a normaliser's short rows underflow; the comparison above must fail."""

    def careless(x):
        return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_(), None

    monkeypatch.setattr(torch_norm_like, "safe_squares", careless)
    with pytest.raises(AssertionError):
        test_the_scale_is_the_one_of_any_magnitude(torch_norm_like, torch.float32, -30)


@pytest.mark.parametrize("function", [*CLASSES.values(), PatchAffineLike])
def test_torch_finds_the_signature_of_a_map_instead_of_making_it(function):
    assert inspect.signature(function.forward) is inspect.signature(function.forward)
    names = [*inspect.signature(function.forward).parameters]
    assert names == [*function.forward.__code__.co_varnames[: function.forward.__code__.co_argcount]]


def gradients_of(module: ModuleType, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(4)
    inputs = [torch.randn(*axes, dtype=dtype, requires_grad=True) for axes in ((37, 6), (5, 6), (5,))]
    inputs = inputs[:2] if module is torch_norm_like_without_bias else inputs
    z = CLASSES[module].apply(*inputs, 3.0)[0]
    return list(torch.autograd.grad(z, inputs, torch.randn_like(z)))


@maps
@types
@pytest.mark.parametrize("block", [1, 6, 60, 110])
def test_gradients_taken_by_blocks_of_rows_are_those_of_all_rows_at_once(module, dtype, block, monkeypatch):
    """Also with blocks of a single row that exceeds the block size, and with a shorter last block."""
    whole = gradients_of(module, dtype)
    monkeypatch.setattr(rows_module, "_BLOCK", block)
    calls = []
    rows = module.gradient_rows
    monkeypatch.setattr(module, "gradient_rows", lambda *given: (calls.append(len(given[0])), rows(*given))[1])
    for by_blocks, expected in zip(gradients_of(module, dtype), whole, strict=True):
        torch.testing.assert_close(by_blocks, expected)
    assert sum(calls) == 37 and max(calls) == max(1, block // 6)
    monkeypatch.setattr(module, "gradient_rows", lambda *given: rows(given[0].flip(0), *given[1:]))
    wrong = gradients_of(module, dtype)[0]
    assert block < 12 or not torch.allclose(wrong, whole[0])


def test_rows_are_taken_all_at_once_where_they_are_few_or_cannot_be_looked_at():
    many = torch.empty(rows_module._BLOCK // 64, 128)
    assert len(rows_module.row_blocks(many)) == 2
    assert [rows_module.row_blocks(x) for x in (many[1:], many.to("meta"), many[:0])] == [[], [], []]
