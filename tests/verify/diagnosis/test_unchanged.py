"""A diagnosis leaves no trace: one test for each object that it uses and could change."""

import contextlib
import copy
import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import verify
from derive.errors import UsageError
from tests.verify.diagnosis.models import network
from verify.diagnosis import measure, tensor_state
from verify.diagnosis.snapshot import Snapshot


class Counting(nn.Module):
    """A model with a counter, a list, a cache and a running tensor that is not a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.calls, self.seen, self.cache = 0, [], {}
        self.running = torch.zeros(3)

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.cache["last"] = x
        self.latest = x
        self.running += x.detach().mean(0)
        return self.linear(x)


def diagnosed(model, batch, loss):
    return verify.diagnose(model, batch, loss, steps=2, rate=0.1)


def test_parameters_and_buffers():
    model, batch, loss = network()
    versions = [p._version for p in model.buffers()]
    before, objects = copy.deepcopy(model.state_dict()), [id(p) for p in (*model.parameters(), *model.buffers())]
    diagnosed(model, batch, loss)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert objects == [id(p) for p in (*model.parameters(), *model.buffers())]
    assert versions == [p._version for p in model.buffers()]


def test_gradients():
    model, batch, loss = network()
    model[7].weight.grad = torch.ones_like(model[7].weight)
    diagnosed(model, batch, loss)
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["7.weight"]
    assert torch.equal(model[7].weight.grad, torch.ones_like(model[7].weight))


@pytest.mark.parametrize("held", ["by the parameter alone", "by a name", "by a view", "by its numbers in NumPy"])
def test_gradients_that_somebody_else_can_change(held):
    """A gradient to which only its parameter refers is moved aside; any other may change inside, and is restored."""
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 3), torch.randn(4, 3)
    model(batch).square().sum().backward()
    before, place = model.weight.grad.clone(), model.weight.grad.data_ptr()
    holders = {"by a name": lambda g: g, "by a view": lambda g: g[0], "by its numbers in NumPy": lambda g: g.numpy()}
    other = holders[held](model.weight.grad) if held in holders else None
    seen = []

    def _loss(z):
        seen.append(model.weight.grad)
        if other is not None:
            other.fill(7.0) if isinstance(other, np.ndarray) else other.fill_(7.0)
        return z.square().sum()

    diagnosed(model, batch, _loss)
    assert seen == [None] * len(seen) and torch.equal(model.weight.grad, before)
    assert model.weight.grad.data_ptr() == place


def test_gradients_are_laid_aside_without_a_copy(monkeypatch):
    torch.manual_seed(0)
    model, batch, copied = nn.Linear(3, 5), torch.randn(4, 3), []
    model(batch).square().sum().backward()
    real = tensor_state.TensorState.__init__
    monkeypatch.setattr(
        tensor_state.TensorState, "__init__", lambda self, t: (copied.append(tuple(t.shape)), real(self, t))[1]
    )
    diagnosed(model, batch, lambda z: z.square().sum())
    assert copied.count((5, 3)) == 1 and copied.count((5,)) == 1


def test_a_parameter_that_nobody_else_holds_is_laid_aside(monkeypatch):
    monkeypatch.setattr(tensor_state, "_LARGE", 1)
    model, batch, loss = network()
    weight, before = model[0].weight, model[0].weight.detach().clone()
    place, kept = weight.data_ptr(), threading.local()  # not followed, so that its content stays

    def _loss(z, y):
        kept.place, kept.seen = weight.data_ptr(), weight.detach().clone()
        return loss(z, y)

    diagnosed(model, batch, _loss)
    assert kept.place != place and not torch.equal(kept.seen, before)
    assert weight.data_ptr() == place and torch.equal(weight, before)

    def _fails(*_):
        raise RuntimeError("on purpose")

    with pytest.raises(UsageError):
        diagnosed(model, batch, _fails)
    assert weight.data_ptr() == place and torch.equal(weight, before)


@pytest.mark.parametrize("hold", [lambda w: w.detach(), lambda w: w.data[:1], lambda w: w.detach().numpy()])
def test_who_else_holds_a_parameter_sees_its_steps(hold, monkeypatch):
    monkeypatch.setattr(tensor_state, "_LARGE", 1)
    model, batch, loss = network()
    held, kept = hold(model[0].weight), threading.local()

    def _loss(z, y):
        kept.seen = float(held.sum())
        return loss(z, y)

    before = float(held.sum())
    diagnosed(model, batch, _loss)
    assert kept.seen != before and float(held.sum()) == before


def test_hooks():
    model, batch, loss = network()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("forward"))
    model[4].weight.register_hook(lambda g: calls.append("gradient"))

    def tables(module):
        return {name: list(value) for name, value in vars(module).items() if "hooks" in name}

    before = [tables(module) for module in model.modules()]
    diagnosed(model, batch, loss)
    assert before == [tables(module) for module in model.modules()]
    assert "gradient" not in calls


def test_training_flags():
    model, batch, loss = network()
    model[1].eval()
    before = [module.training for module in model.modules()]
    assert diagnosed(model, batch, loss).training
    assert before == [module.training for module in model.modules()]
    assert not verify.diagnose(model.eval(), batch, loss).training


def test_random_states():
    model, batch, _ = network()

    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    def state(seed=5):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)

    def loss_that_draws(z, y):
        np.random.rand(), random.random()
        return F.cross_entropy(z, y)

    state()
    expected = draw()
    state()
    diagnosed(model, batch, loss_that_draws)
    assert draw() == expected


def test_attributes_of_modules():
    model, x = Counting(), torch.randn(4, 3)
    found = diagnosed(model, x, lambda z: z.square().mean())
    assert len(found.losses) == 3
    assert model.calls == 0 and model.seen == [] and model.cache == {} and not hasattr(model, "latest")
    assert torch.equal(model.running, torch.zeros(3))


def test_functions_of_torch():
    real = F.linear
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    diagnosed(model, torch.randn(2, 3, 4), lambda z: z.square().mean())
    assert F.linear is real


def test_inputs():
    model, (x, y), loss = network()
    before = x.clone()
    diagnosed(model, (x, y), loss)
    assert torch.equal(x, before) and x.grad is None and not x.requires_grad


def test_nothing_stays_after_an_error():
    model, x = Counting(), torch.randn(4, 3)
    state, real = torch.get_rng_state(), F.linear
    with pytest.raises(UsageError, match="RuntimeError: on purpose"):
        verify.diagnose(model, x, lambda z: (_ for _ in ()).throw(RuntimeError("on purpose")))
    assert model.calls == 0 and not model.linear._forward_hooks and F.linear is real
    assert torch.equal(torch.get_rng_state(), state)


def test_without_gradients_around_it():
    model, batch, loss = network()
    with torch.no_grad():
        assert diagnosed(model, batch, loss).ok
    with torch.inference_mode():
        assert verify.diagnose(model, batch, loss).ok


def test_the_guards_are_what_keeps_them(monkeypatch):
    """Without the guard, the same model is changed: the tests above would notice."""
    monkeypatch.setattr(measure, "untouched", lambda *roots, **_: contextlib.nullcontext(Snapshot()))
    model = Counting()
    diagnosed(model, torch.randn(4, 3), lambda z: z.square().mean())
    assert model.calls == 3
