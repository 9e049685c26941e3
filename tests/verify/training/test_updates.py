"""Update rules against the predicted changes of activations (theory, section 7) and against plain formulas."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.func import functional_call

from verify.training.config import METHODS, UPDATES, TrialConfig, generator
from verify.training.models import build, make_layer
from verify.training.rows import rows_of, with_parameters, with_units
from verify.training.stacked_update import MOMENTUM
from verify.training.updates import Update, foof_gradient, nlms_gradient

ETA = 0.3


def case(method, samples, seed=0):
    """A layer with random parameters, its input, and the affine part with that part's input."""
    randomness = generator("update", method, samples, seed)
    layer = make_layer(method, 6, 4).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=randomness)
    x = torch.randn(samples, 6, dtype=torch.float64, generator=randomness)
    g = torch.randn(samples, 4, dtype=torch.float64, generator=randomness)
    inner, seen = (layer.affine, layer.normaliser(x)) if hasattr(layer, "affine") else (layer, x)
    return inner, seen, g


def moved(layer, x, gradient):
    """The change of the activations by one step along the gradient."""
    before = layer(x).detach()
    with torch.no_grad():
        for parameter, along in zip((layer.weight, layer.bias), gradient, strict=True):
            parameter -= ETA * along
    return layer(x).detach() - before


@pytest.mark.parametrize("method", METHODS)
def test_rows_carry_the_whole_layer(method):
    layer, x, _ = case(method, 5)
    both = torch.cat([layer.weight, layer.bias[:, None]], dim=1)
    torch.testing.assert_close(rows_of(layer, x) @ both.T, layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_the_same_bits_by_a_backward_pass(method, dtype):
    """With many inputs and few samples the rows come from gradients, and must equal those from units with rows of I."""
    layer = make_layer(method, 70, 3).to(dtype)
    x = torch.randn(4, 70, dtype=dtype, generator=generator("wide"))
    x[1] = 0
    with torch.no_grad():
        assert torch.equal(rows_of(layer, x), with_units(layer, x, torch.eye(71, dtype=dtype)))


@pytest.mark.parametrize("method", METHODS)
def test_given_parameters_act_as_in_a_functional_call_and_the_own_ones_come_back(method):
    layer, (x, weight, bias) = make_layer(method, 6, 4).double(), given()
    own = dict(layer.named_parameters())
    names = {name.removeprefix("affine."): name for name in own}
    expected = functional_call(layer, {names["weight"]: weight, names["bias"]: bias}, (x,))
    assert torch.equal(with_parameters(layer, x, weight, bias), expected)
    assert not torch.equal(layer(x), expected[:, :4])
    with pytest.raises((RuntimeError, ValueError)):  # torch's or the generated layer's own
        with_parameters(layer, x[:, :5], weight, bias)
    assert all(parameter is own[name] for name, parameter in layer.named_parameters())
    assert list(dict(layer.named_parameters())) == list(own)


def given():
    """Five samples, the weight and the bias of seven units."""
    randomness = generator("given")
    return (torch.randn(*shape, dtype=torch.float64, generator=randomness) for shape in ((5, 6), (7, 6), (7,)))


@pytest.mark.parametrize("method", METHODS)
def test_nlms_moves_a_lone_sample_by_the_ideal_step(method):
    layer, x, g = case(method, 3)
    x, g = x[:1], g[:1]
    torch.testing.assert_close(moved(layer, x, nlms_gradient(layer, x, g)), -ETA * g)


@pytest.mark.parametrize("method", METHODS)
def test_nlms_is_the_sum_of_what_lone_samples_give(method):
    layer, x, g = case(method, 5)
    parts = [nlms_gradient(layer, x[s : s + 1], g[s : s + 1]) for s in range(5)]
    for whole, pieces in zip(nlms_gradient(layer, x, g), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(pieces).sum(0))


@pytest.mark.parametrize("method", ["none", "affine-like"])
def test_foof_moves_every_sample_by_the_ideal_step_while_rows_are_independent(method):
    layer, x, g = case(method, 5)
    torch.testing.assert_close(moved(layer, x, foof_gradient(layer, x, g)), -ETA * g, rtol=1e-3, atol=1e-3)


def test_plain_descent_does_not():
    layer, x, g = case("none", 7)
    layer(x).backward(g)
    assert (moved(layer, x, (layer.weight.grad, layer.bias.grad)) + ETA * g).abs().max() > 0.1


def test_foof_projects_where_rows_are_dependent():
    layer, x, g = case("none", 40)
    rows = torch.cat([x, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    ideal = -ETA * rows @ torch.linalg.lstsq(rows, g).solution
    torch.testing.assert_close(moved(layer, x, foof_gradient(layer, x, g)), ideal, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rule", "method"), list(product(("nlms", "foof"), METHODS)))
def test_a_training_step_uses_the_rewritten_gradients(rule, method):
    config = TrialConfig(method=method, learning_rate=ETA, update=rule, width=8, depth=1)
    model, twin = build(config, 6, 3), build(config, 6, 3)
    x = torch.randn(10, 6, dtype=torch.float64, generator=generator("batch"))
    y = torch.arange(10) % 3
    update = Update(rule, model, ETA)
    with update.watching():
        loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    update.step()
    assert all(parameter.grad is None for parameter in model.parameters())
    # The reference: the same pass by hand, with gradients of the activations by autograd.
    seen, gradients = [], []
    z = x
    for layer in twin.layers:
        inner = getattr(layer, "affine", layer)
        seen.append(layer.normaliser(z) if inner is not layer else z)
        out = inner(seen[-1])
        gradients.append(out)
        z = twin.activation(out) if layer is not twin.layers[-1] else out
    g = torch.autograd.grad(nn.functional.cross_entropy(z, y), gradients)
    rewrite = {"nlms": nlms_gradient, "foof": foof_gradient}[rule]
    for layer, x_in, g_out, trained in zip(twin.affine_layers(), seen, g, model.affine_layers(), strict=True):
        weight, bias = rewrite(layer, x_in.detach(), g_out)
        torch.testing.assert_close(trained.weight, layer.weight - ETA * weight)
        torch.testing.assert_close(trained.bias, layer.bias - ETA * bias)


def test_momentum_keeps_a_running_sum():
    model = build(TrialConfig(method="none", learning_rate=ETA, width=2, depth=1), 3, 2)
    update = Update("momentum", model, ETA)
    weight = model.layers[0].weight
    start = weight.detach().clone()
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        update.step()
    torch.testing.assert_close(weight, start - ETA * (1 + 1 + MOMENTUM))


def test_adam_is_torchs_and_the_first_step_is_the_rate():
    model = build(TrialConfig(method="none", learning_rate=ETA, width=2, depth=1), 3, 2)
    update = Update("adam", model, ETA)
    weight = model.layers[0].weight
    start = weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    update.step()
    torch.testing.assert_close(weight, start - ETA, rtol=1e-6, atol=1e-6)


def test_every_rule_is_tried_here():
    assert set(UPDATES) == {"sgd", "momentum", "adam", "adamw", "nlms", "foof"}


@pytest.mark.parametrize(
    ("rule", "optimiser"),
    [
        ("sgd", torch.optim.SGD),
        ("momentum", lambda parameters, lr: torch.optim.SGD(parameters, lr, momentum=MOMENTUM)),
        ("adam", torch.optim.Adam),
        ("adamw", lambda parameters, lr: torch.optim.AdamW(parameters, lr, weight_decay=1e-3)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_are_those_of_torchs_optimisers(rule, optimiser, dtype):
    config = TrialConfig(method="none", learning_rate=0.1, width=8, dtype=dtype)
    ours, theirs = build(config, 6, 3), build(config, 6, 3)
    update, peer = Update(rule, ours, 0.1), optimiser(theirs.parameters(), lr=0.1)
    for number in range(1, 7):
        x = torch.randn(5, 6, dtype=config.torch_dtype, generator=generator("x", number))
        for model in (ours, theirs):
            model(x).square().sum().backward()
        update.step(number)
        peer.step()
        peer.zero_grad()
    tolerance = {"rtol": 0, "atol": 0} if not rule.startswith("adam") else {}
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
