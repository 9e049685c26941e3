"""The contributions to a real step against a reference that deep-copies the model and steps it with torch."""

import copy

import pytest
import torch
from torch import nn

import verify
from derive.errors import UsageError
from tests.verify.diagnosis.models import DOUBLE
from verify.diagnosis.record import Parts


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return model, torch.randn(7, 3, dtype=DOUBLE), lambda z: (z.sin() * torch.arange(1.0, 3.0, dtype=DOUBLE)).sum()


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}
LINEAR = ("SGD", "momentum", "nesterov")


def backward(model, x, loss):
    model.zero_grad()
    value = loss(model(x))
    value.backward()
    return value


def step(model, optimizer, x, loss, before_step=lambda: None):
    def closure():
        value = backward(model, x, loss)
        before_step()
        return value

    if not isinstance(optimizer, torch.optim.LBFGS):
        closure()
    optimizer.step(closure if isinstance(optimizer, torch.optim.LBFGS) else None)


def reference(old, new, x):
    """Return own, upstream and both of the middle layer as shares, and the change."""
    with torch.no_grad():
        x_old, x_new = old[:2](x), new[:2](x)
        z = old[2](x_old)
        own, upstream, change = new[2](x_old) - z, old[2](x_new) - z, new[2](x_new) - z
    total = change.square().sum()
    return [float((part * change).sum() / total) for part in (own, upstream, change - own - upstream)], change


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_of_the_users_own_optimizer_with_its_state(name):
    model, x, loss = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(2):
        step(model, optimizer, x, loss)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    found = verify.diagnose(model, x, loss, optimizer=optimizer)
    after = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert str(before) == str(after)
    old = copy.deepcopy(model)
    step(model, optimizer, x, loss)
    shares, change = reference(old, model, x)
    parts = found.layer("2").parts
    assert [parts.own, parts.upstream, parts.both] == pytest.approx(shares, rel=1e-7, abs=1e-9)
    assert parts.own + parts.upstream + parts.both == pytest.approx(1)
    assert found.optimizer == type(optimizer).__name__
    assert (parts.split is not None) == (name in LINEAR)
    if parts.split is not None:
        assert sum(parts.split.values()) == pytest.approx(parts.own, abs=1e-9)
        assert parts.split["elsewhere"] == pytest.approx(0, abs=1e-9)
        assert (abs(parts.split["past"]) > 1e-3) == (name != "SGD")
    weights = [torch.cat([p.flatten() for p in net[2].parameters()]).detach() for net in (old, model)]
    assert parts.update_to_weight == pytest.approx(float((weights[1] - weights[0]).norm() / weights[0].norm()))
    backward(old, x, loss)
    assert parts.gradient_norm == pytest.approx(
        float(torch.cat([p.grad.flatten() for p in old[2].parameters()]).norm())
    )
    z = old[:3](x).detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(old[3:](z)), z)
    assert parts.cosine == pytest.approx(float(nn.functional.cosine_similarity(change, -g).mean()))


def test_self_and_cross_under_clipping_by_hand():
    model, x, loss = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def clip():
        return nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    found = verify.diagnose(model, x, loss, optimizer=optimizer, before_step=clip).layer("2").parts
    old = copy.deepcopy(model)
    z = old[:3](x).detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(old[3:](z)), z)
    step(model, optimizer, x, loss, clip)
    _, change = reference(old, model, x)
    backward(old, x, loss)
    scale = 0.5 / float(torch.cat([p.grad.flatten() for p in old.parameters()]).norm())
    own = -0.1 * scale * (old[:2](x).detach().square().sum(1, keepdim=True) + 1) * g
    assert scale < 1
    assert found.split["self"] == pytest.approx(float((own * change).sum() / change.square().sum()), rel=1e-5)


def test_a_step_with_dropout_compares_the_same_random_numbers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.5), nn.Linear(6, 2)).double()
    x = torch.randn(9, 3, dtype=DOUBLE)
    found = verify.diagnose(model, x, lambda z: z.square().sum(), rate=1e-4)
    parts = found.layer("2").parts
    assert abs(parts.both) < 1e-2 and parts.update_to_activation < 0.05


def test_the_first_layer_of_a_network_has_no_upstream_part():
    model, x, loss = network()
    found = verify.diagnose(model, x, loss)
    assert found.layer("0").parts.own == pytest.approx(1) and found.layer("0").parts.upstream == 0
    assert sum(found.whole.values()) == pytest.approx(1)


def test_a_scheduler_is_stepped_and_put_back():
    model, x, loss = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    found = verify.diagnose(model, x, loss, optimizer=optimizer, scheduler=scheduler, steps=3)
    assert scheduler.last_epoch == 0 and optimizer.param_groups[0]["lr"] == 0.1
    losses = []
    for _ in range(4):
        losses.append(loss(model(x)).item())
        step(model, optimizer, x, loss)
        scheduler.step()
    assert found.losses == pytest.approx(losses)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), "none of the model's trained parameters"),
        ("adam", "the optimizer is a str"),
    ],
)
def test_wrong_optimizers(optimizer, message):
    model, x, loss = network()
    with pytest.raises(UsageError, match=message):
        verify.diagnose(model, x, loss, optimizer=optimizer)


def test_a_function_that_makes_an_optimizer():
    model, x, loss = network()
    assert verify.diagnose(model, x, loss, optimizer=torch.optim.Adam).optimizer == "Adam"


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_watched_step_is_that_of_a_diagnosis(name):
    model, x, loss = network()
    optimizer, twin = OPTIMIZERS[name](model.parameters()), copy.deepcopy(model)
    watched_twin = OPTIMIZERS[name](twin.parameters())
    with verify.watch(model, every=2, optimizer=optimizer) as watched:
        for number in range(3):
            if number == 2:
                found = verify.diagnose(twin, x, loss, optimizer=watched_twin)
            step(model, optimizer, x, loss)
            step(twin, watched_twin, x, loss)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert [reading.step for reading in watched.readings] == [0, 2]
    for layer in found.layers:
        parts = watched.readings[1].parts[layer.name]
        assert isinstance(parts, Parts) and watched.readings[1].layers[layer.name] == layer.factors
        for word in ("own", "upstream", "both", "cosine", "update_to_weight", "update_to_activation", "gradient_norm"):
            assert getattr(parts, word) == pytest.approx(getattr(layer.parts, word), rel=1e-9, abs=1e-12)


def test_watching_the_optimizer_leaves_training_as_it_is():
    results = []
    for watching in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer, x = torch.optim.Adam(model.parameters()), torch.randn(6, 3)
        with verify.watch(model, every=1, optimizer=optimizer if watching else None):
            for _ in range(3):
                step(model, optimizer, x, lambda z: z.square().mean())
        results.append(model.state_dict())
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
