"""The convolutional network: its layers against unfolded patches, its initial values, its probes and update rules."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

from derive.errors import UsageError
from verify.derived import derived
from verify.training.cnn import strides
from verify.training.config import METHODS_OF, TrialConfig, generator
from verify.training.data import digits
from verify.training.dataset import Dataset, Split
from verify.training.initialise import energy
from verify.training.layers import make_convolution
from verify.training.models import build, build_for, demand_fit
from verify.training.probe import Probe, move, self_factors
from verify.training.rows import rows_of
from verify.training.trial import run_trial
from verify.training.updates import foof_gradient, nlms_gradient

METHODS = METHODS_OF["cnn"]
CORRECTED = {"patch-norm": 1.0, "patch-norm-like": 2.0, "patch-norm-centred": 2.0}
CONFIG = TrialConfig(model="cnn", method="none", learning_rate=0.1, width=4, depth=2)


@pytest.fixture
def images():
    return 2 * torch.randn(3, 2, 5, 5, dtype=torch.float64, generator=generator("images")) + 0.5


def model_of(method, shape=(2, 6, 6), classes=3, **settings):
    config = replace(CONFIG, method=method, **settings)
    return build(config, torch.Size(shape).numel(), classes, shape=shape)


def convolution_of(method, stride=1):
    layer = make_convolution(method, 2, 3, stride).double().train()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator("convolution", parameter.shape))
    return layer


def normalised(method, x):
    """The images normalised by their own statistics."""
    axes = (0, 2, 3) if method == "batch-norm" else (1, 2, 3)
    if method in ("batch-norm", "layer-norm"):
        variance = x.var(axes, correction=0, keepdim=True)
        return (x - x.mean(axes, keepdim=True)) / (variance + 1e-5).sqrt()
    return x / (x.square().mean(axes, keepdim=True) + 2.0**-52).sqrt() if method == "rms-norm" else x


def patches_of(method, x, stride=1, kernel=3):
    """Return the rows that [W, b] multiply, (B, n + 1, places), from the patches one by one."""
    u = unfold(normalised(method, x), kernel, padding=kernel // 2, stride=stride)
    one = torch.ones_like(u[:, :1])
    if method == "patch-norm":
        return torch.cat([u, one], 1) / (u.square().sum(1, keepdim=True) + 1).sqrt()
    if method in CORRECTED:
        u = u - u.mean(1, keepdim=True) if method == "patch-norm-centred" else u
        u = u / u.norm(dim=1, keepdim=True)
    return torch.cat([u, one], 1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_is_its_parameters_times_patches(method, stride, images):
    layer = convolution_of(method, stride)
    rows = patches_of(method, images, stride)
    both = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], 1)
    torch.testing.assert_close(layer(images).flatten(2), both @ rows)
    torch.testing.assert_close(rows_of(layer, images).flatten(2), rows)
    torch.testing.assert_close(self_factors(layer, images), rows.square().sum(1))


@pytest.mark.parametrize("method", METHODS)
def test_shapes_are_the_same_for_every_method(method):
    model = model_of(method)
    assert model(torch.randn(5, 72, dtype=torch.float64)).shape == (5, 3)
    assert list(model.measured_layers()) == ["layer 1", "layer 2", "layer 3"]
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(4, 2, 3, 3), (4,), (4, 4, 3, 3), (4,), (3, 4), (3,)]


def test_every_second_convolution_halves_what_is_large_enough():
    assert strides(32, 7) == [1, 2, 1, 2, 1, 2, 1]
    assert strides(8, 4) == [1, 2, 1, 1]
    assert strides(7, 2) == [1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_another_structure_is_its_parameters_times_patches(method):
    """Wide kernels, groups of channels from the second convolution on, and means over 2 x 2 places, written out."""
    model = model_of(method, (2, 9, 10), width=6, depth=3, kernel=5, groups=3, halving="pool").train()
    x = torch.randn(4, 180, dtype=torch.float64, generator=generator("images"))
    z = x.unflatten(1, (2, 9, 10))
    for number, layer in enumerate(model.convolutions):
        groups = 3 if number else 1
        per, size = z.shape[1] // groups, z.shape[2:]
        z = z if method in CORRECTED else normalised(method, z)
        parts = []
        for g, (weight, bias) in enumerate(zip(layer.weight.chunk(groups), layer.bias.chunk(groups), strict=True)):
            rows = patches_of(method if method in CORRECTED else "none", z[:, g * per : (g + 1) * per], kernel=5)
            parts.append(torch.cat([weight.flatten(1), bias[:, None]], 1) @ rows)
        z = torch.tanh(torch.cat(parts, 1).unflatten(2, size))
        if number == 1:
            means = [z[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in range(0, 9, 2) for j in range(0, 10, 2)]
            z = torch.stack(means, 2).unflatten(2, (5, 5))
    torch.testing.assert_close(model(x), model.last(z.mean((2, 3))))


@pytest.mark.parametrize("method", METHODS)
def test_every_convolution_starts_with_unit_variance(method):
    model = model_of(method, (3, 24, 24), width=32, activation="leaky-relu").train()
    z = torch.randn(8, 3, 24, 24, dtype=torch.float64, generator=generator("inputs"))
    for layer in model.convolutions:
        z = layer(z)
        assert 0.7 < z[:, :, 1:-1, 1:-1].var().item() < 1.35
        z = model.activation(z)


@pytest.mark.parametrize("method", ["patch-norm", "patch-norm-like"])
def test_first_values_are_the_derived_ones(method):
    form = {"patch-norm": "affine-like", "patch-norm-like": "norm-like"}[method]
    (found,) = [m for m in derived("convolution").solutions if m.name == form]
    layer = make_convolution(method, 2, 3, 1)
    deviation = float(found.weight_scale.subs(found.kappa, layer.kappa))
    assert energy(layer, 1.0) == pytest.approx(deviation**-2)


def test_torchs_first_values_are_those_of_its_layers_for_every_method():
    configs = [replace(CONFIG, method=method, init="torch") for method in METHODS]
    models = [build(config, 72, 3, (2, 6, 6)) for config in configs]
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        assert all(torch.equal(parameters[0], parameter) for parameter in parameters)
    assert models[0].convolutions[0].weight.abs().max() <= 18**-0.5


@pytest.mark.parametrize("method", METHODS)
def test_a_lone_place_steps_as_autograd_says(method, images):
    layer = convolution_of(method)
    g = torch.randn(3, 3, 25, dtype=torch.float64, generator=generator("g"))
    kappa = CORRECTED.get(method, float(self_factors(layer, images).mean()))
    errors = []
    for image, place in ((0, 0), (1, 12), (2, 23)):
        twin = copy.deepcopy(layer)
        before = twin(images).flatten(2)[image, :, place]
        before.backward(g[image, :, place])
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter -= 0.7 * parameter.grad
            change = twin(images).flatten(2)[image, :, place] - before
        ideal = 0.7 * kappa * g[image, :, place]
        errors.append(float((change + ideal).norm() / ideal.norm()))
    found = move(layer, images, g, kappa, torch.tensor([0, 25 + 12, 50 + 23]))
    assert found.error == pytest.approx(max(errors), rel=1e-9, abs=1e-13)
    assert (found.error < 1e-13) == (method in CORRECTED)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_the_identity_in_a_network(method, dtype):
    model = model_of(method, dtype=dtype)
    x = torch.randn(8, 72, dtype=torch.float64, generator=generator("x")).to(CONFIG.torch_dtype)
    x = x.to(next(model.parameters()).dtype)
    spreads, own_steps = Probe(model).measure(Split(x, torch.arange(8) % 3), 3, generator("v"))
    assert [one.layer for one in own_steps] == [s.layer for s in spreads] == list(model.measured_layers())
    for one, spread in zip(own_steps, spreads, strict=True):
        if method in CORRECTED:
            assert one.kappa == CORRECTED[method] and spread.ratio == pytest.approx(1, abs=1e-12)
            assert one.error <= one.bound and one.error_float64 < 1e-13
    if method not in CORRECTED:
        assert spreads[0].ratio > 1.05 and own_steps[0].error > 1e-2


@pytest.mark.parametrize("rewrite", [nlms_gradient, foof_gradient])
@pytest.mark.parametrize("method", ["none", "patch-norm"])
def test_update_rules_see_every_patch_as_a_sample(method, rewrite, images):
    """The same rule on an affine map of the unfolded patches."""
    layer, g = convolution_of(method, 2), torch.randn(3, 3, 3, 3, dtype=torch.float64, generator=generator("g"))
    rows = patches_of(method, images, 2).transpose(1, 2).flatten(0, 1)
    weight, bias = rewrite(layer, images, g)
    flat = g.flatten(2).transpose(1, 2).flatten(0, 1)
    if rewrite is nlms_gradient:
        expected = (flat / rows.square().sum(1, keepdim=True)).T @ rows
    else:
        damped = 1e-6 * rows.square().sum() / len(rows) * torch.eye(19, dtype=torch.float64)
        expected = flat.T @ rows @ torch.linalg.inv(rows.T @ rows + damped)
    torch.testing.assert_close(torch.cat([weight, bias[:, None]], 1), expected, rtol=1e-6, atol=1e-6)


def test_it_learns():
    data = digits(0, torch.float32)
    config = replace(CONFIG, method="patch-norm", width=8, learning_rate=10.0, epochs=None, steps=60, dtype="float32")
    result = run_trial(replace(config, evaluate_every=0, train_samples=960, evaluation_samples=200), data)
    assert result.test_accuracy > 0.4 and result.points[-1].train_loss < result.points[0].train_loss / 1.3


def test_methods_and_data_must_fit_the_model():
    with pytest.raises(UsageError, match=r"method = 'norm-like' is not one of model = 'cnn'; choose none, batch-norm"):
        replace(CONFIG, method="norm-like")
    with pytest.raises(UsageError, match="method = 'patch-norm' is not one of model = 'mlp'"):
        replace(CONFIG, model="mlp", method="patch-norm")
    with pytest.raises(UsageError, match="model = 'cnn' reads images, but this data is text"):
        demand_fit(CONFIG, "text")
    part = Split(torch.zeros(2, 3), torch.arange(2))
    with pytest.raises(UsageError, match="reads images"):
        build_for(CONFIG, Dataset("rows", 2, part, part, part, ""))


def test_a_layer_without_its_length_is_seen(images):
    class Unscaled(nn.Conv2d):
        kappa = 1.0

    g = torch.randn(3, 3, 25, dtype=torch.float64, generator=generator("g"))
    assert move(Unscaled(2, 3, 3, padding=1).double(), images, g, 1.0, torch.tensor([0, 30])).error > 0.1
