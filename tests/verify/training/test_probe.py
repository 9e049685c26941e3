"""The probe against formulas and against a full Jacobian: it must measure the self factor and change nothing."""

import copy

import pytest
import torch
from torch import nn

from verify.training.config import METHODS, TrialConfig, generator
from verify.training.models import Normalised, build
from verify.training.probe import measure_model, self_factors, summarise


@pytest.fixture
def x():
    return 2 * torch.randn(9, 6, dtype=torch.float64, generator=generator("probe-x")) + 0.5


def full_self_factor(layer, x):
    """Return K_ss as (B, m, m) from the whole Jacobian."""
    parameters = dict(layer.named_parameters())
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(layer, p, (x,)))(parameters)
    flat = torch.cat([j.flatten(start_dim=2) for j in jacobian.values()], dim=2)
    return flat @ flat.transpose(1, 2)


def expected_factors(method, x):
    if method == "batch-norm":
        hat = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        return hat.square().sum(1) + 1
    if method == "layer-norm":
        variance = x.var(1, correction=0)
        return x.shape[1] * variance / (variance + 1e-5) + 1
    constants = {"rms-norm": x.shape[1] + 1.0, "norm-like": 2.0, "affine-like": 1.0}
    if method in constants:
        return torch.full((len(x),), constants[method], dtype=x.dtype)
    return x.square().sum(1) + 1


@pytest.mark.parametrize("method", METHODS)
def test_measured_factor_is_the_one_of_theory(method, x):
    layer = build(TrialConfig(method=method, learning_rate=1.0), features=6, classes=4).layers[0].train()
    measured = self_factors(layer, x, generator("v"))
    torch.testing.assert_close(measured, expected_factors(method, x), rtol=1e-12, atol=0)


def test_measured_factor_is_the_quadratic_form_of_the_full_matrix(x):
    layer = nn.Sequential(nn.Linear(6, 3), nn.RMSNorm(3)).double()  # not isotropic: K_ss depends on the direction
    matrix = full_self_factor(layer, x)
    v = torch.randn(3, dtype=torch.float64, generator=generator("v"))
    v /= v.norm()
    expected = torch.einsum("i,sij,j->s", v, matrix, v)
    torch.testing.assert_close(self_factors(layer, x, generator("v")), expected, rtol=1e-12, atol=0)


def test_a_broken_layer_is_seen(x):
    class Dropped(nn.Linear):  # affine-like without the + 1 under the root
        def forward(self, x):
            return super().forward(x) / x.norm(dim=1, keepdim=True)

    measured = self_factors(Dropped(6, 3).double(), x, generator("v"))
    assert (measured - 1).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_measuring_leaves_the_model_as_it_was(method, x):
    model = build(TrialConfig(method=method, learning_rate=1.0, width=5), features=6, classes=4)
    model(x).sum().backward()
    model.eval()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    spreads = measure_model(model, x, step=7, generator=generator("v"))
    assert [(s.step, s.layer) for s in spreads] == [(7, "layer 1"), (7, "layer 2"), (7, "layer 3")]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_summary():
    spread = summarise(3, "layer 1", torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert (spread.minimum, spread.median, spread.maximum, spread.mean, spread.ratio) == (1.0, 2.0, 6.0, 3.0, 6.0)
    assert spread.coefficient_of_variation == pytest.approx((14 / 3) ** 0.5 / 3)


def test_normalised_layer_shows_its_parameters():
    layer = Normalised(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))
    assert layer.weight is layer.affine.weight and layer.bias is layer.affine.bias
