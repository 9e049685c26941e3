"""The networks: every method builds, starts with unit variance, and computes the layer that it names."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from verify.derived import derived
from verify.training import models
from verify.training.config import METHODS, WIDE_KAPPA, TrialConfig, generator
from verify.training.initialise import energy, mean_square, semi_orthogonal
from verify.training.models import build, make_layer
from verify.training.sweep import nominal_kappa

OF_OURS = [
    TrialConfig("affine-like", 1.0),
    TrialConfig("norm-like", 1.0),
    TrialConfig("angle", 1.0, angle="atan(r)"),
    TrialConfig("patch-norm", 1.0, model="cnn", width=2, depth=1),
    TrialConfig("patch-norm-centred", 1.0, model="cnn", width=2, depth=1),
    TrialConfig("norm-like", 1.0, model="transformer", width=4, depth=1),
]


def scores_of(config):
    """The output of a network for a zero sample."""
    shape = {"mlp": (6,), "cnn": (1, 4, 4), "transformer": (5,)}[config.model]
    x = torch.zeros(2, math.prod(shape), dtype=torch.long if config.model == "transformer" else config.torch_dtype)
    return models.build(config, math.prod(shape), 3, shape=shape)(x)


def model_of(method, **settings):
    return build(TrialConfig(method=method, learning_rate=1.0, **settings), features=64, classes=10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", ["tanh", "leaky-relu"])
def test_every_layer_starts_with_unit_variance(method, activation):
    model = model_of(method, activation=activation, width=256, depth=3).train()
    z = torch.randn(400, 64, dtype=torch.float64, generator=generator("inputs"))
    for layer in model.layers[:-1]:
        z = layer(z)
        assert 0.8 < z.var().item() < 1.25
        z = model.activation(z)


@pytest.mark.parametrize("method", [*METHODS, WIDE_KAPPA])
def test_orthogonal_weights_have_equal_singular_values_and_keep_unit_variance(method):
    """Checked by NumPy's singular values, which the initialisation does not use."""
    model = model_of(method, init="orthogonal", width=128, depth=2).train()
    z = torch.randn(400, 64, dtype=torch.float64, generator=generator("inputs"))
    for layer in model.layers:
        weight = (layer.affine if hasattr(layer, "affine") else layer).weight.detach().numpy()
        singular = np.linalg.svd(weight, compute_uv=False)
        np.testing.assert_allclose(singular, singular[0], rtol=1e-12)
        z = layer(z)
        assert z.var().item() == pytest.approx(1.0, rel=0.25)
        z = model.activation(z)


def test_orthogonal_filters_are_orthogonal_as_rows():
    filters = semi_orthogonal(torch.Size((4, 3, 2, 2)), generator("filters")).reshape(4, 12)
    torch.testing.assert_close(filters @ filters.T, 12 * torch.eye(4, dtype=torch.float64))


def test_orthogonal_weights_have_no_preferred_sign():
    """Without the sign correction, Q's diagonal has one sign in half of all cases or always."""
    draws = torch.stack([semi_orthogonal(torch.Size((3, 3)), generator("sign", k)) for k in range(400)])
    assert draws.mean(0).abs().max() < 0.25  # five deviations of a mean of 400 entries of mean square 1
    torch.testing.assert_close(draws.square().mean(0), torch.ones(3, 3, dtype=torch.float64), atol=0.25, rtol=0)


def test_kappa_n_plus_1_is_the_same_layer_in_other_units():
    """At kappa = n + 1 a weight sqrt(n + 1) times smaller gives the same map as at kappa = 1 (theory, section 2)."""
    ours, wide = make_layer("affine-like", 8, 3).double(), make_layer(WIDE_KAPPA, 8, 3).double()
    with torch.no_grad():
        for one, other in zip(ours.parameters(), wide.parameters(), strict=True):
            one.normal_(generator=generator("units"))
            other.copy_(one / 3)
    x = torch.randn(5, 8, dtype=torch.float64, generator=generator("inputs"))
    torch.testing.assert_close(ours(x), wide(x))
    assert nominal_kappa(WIDE_KAPPA, 8) == 9


def test_torchs_first_values_are_those_of_its_layers_for_every_method():
    models = [model_of(method, init="torch", width=32) for method in METHODS]
    for layers in zip(*(model.affine_layers() for model in models), strict=True):
        bound = layers[0].weight.shape[1] ** -0.5
        for values in ([layer.weight for layer in layers], [layer.bias for layer in layers]):
            assert 0.8 * bound < values[0].abs().max() <= bound
            assert values[0].detach().std().item() == pytest.approx(bound / 3**0.5, rel=0.5)
    same = [build(TrialConfig(method=m, learning_rate=1.0, init="torch"), 64, 10) for m in METHODS]
    for parameters in zip(*(model.parameters() for model in same), strict=True):
        assert all(torch.equal(parameters[0], parameter) for parameter in parameters)


@pytest.mark.parametrize("method", METHODS)
def test_initialisation_follows_from_the_settings(method):
    first, same, other = model_of(method), model_of(method), model_of(method, seed=1)
    weights = [m.layers[0].weight for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert all((layer.bias == 0).all() for layer in first.layers)


@pytest.mark.parametrize("method", METHODS)
def test_shapes_depth_and_parameters(method):
    model = model_of(method, width=16, depth=2)
    assert model(torch.randn(5, 64, dtype=torch.float64)).shape == (5, 10)
    assert list(model.measured_layers()) == ["layer 1", "layer 2", "layer 3"]
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(16, 64), (16,), (16, 16), (16,), (10, 16), (10,)], "normalisers carry no parameters of their own"


@pytest.mark.parametrize("method", ["affine-like", "norm-like"])
@pytest.mark.parametrize("kappa", [1.5, 2.0, 7.0])
def test_energy_of_the_generated_layers_is_the_derived_one(method, kappa):
    (found,) = [m for m in derived("affine").solutions if m.name == method]
    layer = make_layer(method, 3, 2)
    layer.kappa = kappa
    deviation = float(found.weight_scale.subs(found.kappa, kappa))
    assert energy(layer, 1.0) == pytest.approx(deviation**-2)


def test_second_moment_of_an_activation():
    assert mean_square(nn.Identity()) == pytest.approx(1.0)
    sample = torch.randn(2_000_000, dtype=torch.float64, generator=generator("moment")).tanh().square().mean().item()
    assert mean_square(nn.Tanh()) == pytest.approx(sample, rel=2e-3)
    assert mean_square(nn.LeakyReLU(0.01)) == pytest.approx((1 + 0.01**2) / 2, rel=1e-3)
    assert math.isfinite(mean_square(nn.ReLU()))


@pytest.mark.parametrize("config", OF_OURS, ids=lambda config: f"{config.model}-{config.method}")
def test_no_choice_of_a_machine_reaches_a_network_on_the_cpu(config, monkeypatch):
    monkeypatch.setenv("AFFINE_DIVERGENCE_BACKEND", "cuda")
    scores_of(config)


@pytest.mark.parametrize("config", OF_OURS, ids=lambda config: f"{config.model}-{config.method}")
def test_the_environment_would_reach_it_otherwise(config, monkeypatch):
    monkeypatch.setenv("AFFINE_DIVERGENCE_BACKEND", "cuda")
    monkeypatch.setattr(models, "take_torch", lambda model: None)
    with pytest.raises(ValueError, match="by the environment variable"):
        scores_of(config)
