"""The probe against formulas and against a full Jacobian: it must measure the self factor and change nothing."""

import copy

import pytest
import torch
from torch import nn

from verify.training.config import METHODS, TrialConfig, generator
from verify.training.dataset import Split
from verify.training.models import Normalised, build
from verify.training.probe import Probe, move, rounding_bound, self_factors, self_share, summarise

CORRECTED = {"affine-like": 1.0, "norm-like": 2.0}


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


def layer_of(method, **settings):
    return build(TrialConfig(method=method, learning_rate=1.0, **settings), features=6, classes=4).layers[0].train()


class Dropped(nn.Linear):
    """Affine-like without the + 1 under the root."""

    kappa = 1.0

    def forward(self, x):
        return super().forward(x) / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("method", METHODS)
def test_measured_factor_is_the_one_of_theory(method, x):
    measured = self_factors(layer_of(method), x)
    torch.testing.assert_close(measured[:, 0], expected_factors(method, x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_measured_factor_is_that_of_the_whole_jacobian(method, x):
    layer = layer_of(method)
    if method == "batch-norm":
        layer.normaliser = nn.BatchNorm1d(6, affine=False, track_running_stats=False)
    ideal = self_factors(layer, x)[:, :, None] * torch.eye(layer.weight.shape[0], dtype=x.dtype)
    torch.testing.assert_close(full_self_factor(layer, x), ideal, rtol=1e-12, atol=1e-12)


def test_a_broken_layer_is_seen(x):
    layer = Dropped(6, 3).double()
    assert (self_factors(layer, x) - 1).abs().max() > 1e-3
    g = torch.randn(9, 3, 1, dtype=x.dtype, generator=generator("g"))
    assert move(layer, x, g, layer.kappa, torch.arange(9)).error > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_a_lone_step_is_the_one_that_autograd_takes(method, x):
    """An independent implementation: one sample after another, on the layer itself, at another rate."""
    layer = layer_of(method)
    g = torch.randn(9, layer.weight.shape[0], dtype=x.dtype, generator=generator("g"))
    kappa = CORRECTED.get(method, float(self_factors(layer, x).mean()))
    errors = []
    for s in (0, 3, 7):
        twin = copy.deepcopy(layer)
        before = twin(x)[s]
        before.backward(g[s])
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= 0.7 * parameter.grad
            change = twin(x)[s] - before
            errors.append(float((change + 0.7 * kappa * g[s]).norm() / (0.7 * kappa * g[s]).norm()))
    found = move(layer, x, g[:, :, None], kappa, torch.tensor([0, 3, 7]))
    assert found.error == pytest.approx(max(errors), rel=1e-9, abs=1e-12)
    layer(x).backward(g)
    with torch.no_grad():
        before = layer(x)
        for parameter in layer.parameters():
            parameter += parameter.grad
        torch.testing.assert_close(found.change[:, :, 0], layer(x) - before, rtol=1e-9, atol=1e-9)


def test_a_sample_without_a_gradient_takes_no_step(x):
    layer = layer_of("affine-like")
    g = torch.zeros(9, layer.weight.shape[0], 1, dtype=x.dtype)
    nothing = move(layer, x, g, 1.0, torch.tensor([1, 2]))
    assert (nothing.error, nothing.change, self_share(g, nothing.change)) == (None, None, None)
    g[2] = 1.0
    assert move(layer, x, g, 1.0, torch.tensor([1, 2])).error < 1e-14


def test_shares_are_of_the_summed_squares():
    own, cross = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert self_share(own, own + cross) == pytest.approx(0.9)
    assert self_share(own, own) == 1.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_the_identity_in_a_network(method, dtype):
    config = TrialConfig(method=method, learning_rate=1.0, width=9, dtype=dtype)
    model = build(config, features=6, classes=4)
    x = torch.randn(16, 6, dtype=config.torch_dtype, generator=generator("x"))
    spreads, own_steps = Probe(model).measure(Split(x, torch.arange(16) % 4), 3, generator("v"))
    assert [(one.step, one.layer) for one in own_steps] == [(s.step, s.layer) for s in spreads]
    for one, spread in zip(own_steps, spreads, strict=True):
        assert one.declared == (method in CORRECTED) and 0 < one.self_share < 1
        if method in CORRECTED:
            assert one.kappa == CORRECTED[method]
            assert one.error <= one.bound and one.error_float64 <= rounding_bound(9, 2.0**-52) < 1e-12
            assert (one.error == one.error_float64) == (dtype == "float64")
        else:
            assert one.kappa == spread.mean
        if method in ("none", "batch-norm"):
            assert 1e-3 < one.error_float64 < spread.maximum / spread.mean


@pytest.mark.parametrize("method", METHODS)
def test_measuring_leaves_the_model_as_it_was(method, x):
    model = build(TrialConfig(method=method, learning_rate=1.0, width=5), features=6, classes=4)
    model(x).sum().backward()
    model.eval()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    spreads, _ = Probe(model).measure(Split(x, torch.arange(9) % 4), 7, generator("v"))
    assert [(s.step, s.layer) for s in spreads] == [(7, "layer 1"), (7, "layer 2"), (7, "layer 3")]
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_a_probe_sees_the_parameters_of_the_moment(x):
    model, probed = build(TrialConfig(method="none", learning_rate=1.0), 6, 4), Split(x, torch.arange(9) % 4)
    probe = Probe(model)
    with torch.no_grad():
        model.layers[0].weight.mul_(3)
    assert probe.measure(probed, 0, generator("v")) == Probe(model).measure(probed, 0, generator("v"))


def test_summary():
    spread = summarise(3, "layer 1", torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert summarise(3, "layer 1", torch.tensor([4.0, 1.0, 2.0, 9.0])).median == 3.0
    assert (spread.minimum, spread.median, spread.maximum, spread.mean, spread.ratio) == (1.0, 2.0, 6.0, 3.0, 6.0)
    assert spread.coefficient_of_variation == pytest.approx((14 / 3) ** 0.5 / 3)


def test_normalised_layer_shows_its_parameters():
    layer = Normalised(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))
    assert layer.weight is layer.affine.weight and layer.bias is layer.affine.bias
