"""Rounding errors are estimated through all intermediates, so also for small differences of large terms."""

import pytest
import torch

from verify.checks.roundings import Rounding, rounding_errors

UNIT = 2.0**-24  # of float32


def generator():
    return torch.Generator().manual_seed(5)


def numbers(*shape):
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


def test_one_operation_is_off_by_at_most_a_unit():
    x = numbers(1000)
    with Rounding(UNIT, generator()):
        doubled = 2 * x
    off = (doubled / (2 * x) - 1).abs()
    assert 0.99 * UNIT < off.max() <= UNIT * (1 + 1e-6)
    assert torch.equal(doubled.sign(), x.sign())


def test_what_only_looks_at_a_tensor_is_not_off():
    x = numbers(6, 2)
    with Rounding(UNIT, generator()):
        assert torch.equal(x.T.reshape(2, 3, 2)[:, 1:].transpose(0, 1), x.T.reshape(2, 3, 2)[:, 1:].transpose(0, 1))
        assert torch.equal(torch.tensor([1, 2]) + 1, torch.tensor([2, 3]))


@pytest.mark.parametrize("size", [10, 5000, 20_000])
def test_a_tensor_larger_than_the_draw_is_rounded_whole(size):
    with Rounding(UNIT, generator()):
        off = torch.ones(size, dtype=torch.float64) * 1.0 - 1
    assert (off != 0).sum() > 0.9 * size


CANCELLING = {
    "a sum": lambda x: torch.cat([x, -x]).sum(),
    "a product of matrices": lambda x: (torch.cat([x, x])[None] @ torch.cat([x, -x])[:, None]).squeeze(),
    "two ways to one value": lambda x: x.exp().sum() - x.exp().sum(),
    "the shift that a softmax does not see": lambda x: shift_gradient(x),
}


def shift_gradient(x):
    """The gradient of a softmax with respect to a common shift of its scores: zero, as a sum of terms."""
    shift = x.new_zeros(1).requires_grad_()
    z = (torch.softmax(x + shift, 0) * x.exp()).sum()
    return torch.autograd.grad(z, shift)[0].squeeze()


@pytest.mark.parametrize("name", CANCELLING)
def test_a_difference_of_large_terms_may_be_off_by_roundings_of_the_terms(name):
    """The exact difference is zero; float32 gives more than rounding the operands alone explains."""
    function, x = CANCELLING[name], numbers(20).float()
    ((expected, change),) = rounding_errors(lambda: [function(x.double())], UNIT, generator())
    operands_alone = function(x.double() * (1 + UNIT)) - expected
    assert max(abs(float(expected)), abs(float(operands_alone))) < 1e-4 * float(change)
    assert abs(float(function(x))) <= 4 * float(change)


def test_the_change_is_in_proportion_to_the_unit_also_where_float64_cannot_hold_it():
    x = numbers(50)
    fine, coarse = (rounding_errors(lambda: [x.exp().sum()], unit, generator())[0][1] for unit in (2.0**-53, 2.0**-24))
    assert float(coarse / fine) == pytest.approx(2.0**29, rel=0.5)


def test_the_same_seed_gives_the_same_change():
    once, again = (rounding_errors(lambda: [numbers(30).tanh().sum()], UNIT, generator())[0] for _ in range(2))
    assert all(map(torch.equal, once, again))
