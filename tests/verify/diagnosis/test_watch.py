"""Watching training: readings match the layers, hooks are removed, TensorBoard receives the numbers."""

import builtins

import pytest
import torch
from torch import nn

import affine_divergence as ad
import verify
from derive.errors import UsageError
from tests.verify.diagnosis.models import Attend, network

DOUBLE = torch.float64


def train(model, x, steps, y=None):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()


def test_readings_are_the_self_factors_of_the_layers_at_their_steps():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), torch.randn(6, 3, dtype=DOUBLE)
    expected = []

    def keep(reading):
        with torch.no_grad():
            expected.append(ad.self_factor(model[2], model[1](model[0](x))).max().item())

    with verify.watch(model, every=2, report=keep) as watched:
        train(model, x, 5)
    assert [reading.step for reading in watched.readings] == [0, 2, 4]
    assert [reading.layers["2"].maximum for reading in watched.readings] == expected
    assert watched.drift["0"] == 1 and watched.drift["2"] != 1


def test_a_watch_changes_nothing_and_takes_its_hooks_off():
    results = []
    for watching in (False, True):
        model, (x, _), _ = network()
        torch.manual_seed(3)
        if watching:
            with verify.watch(model, every=1):
                train(model, x, 2)
        else:
            train(model, x, 2)
        results.append(model.state_dict())
        hooks = [len(t) for m in model.modules() for n, t in vars(m).items() if n.endswith("_hooks")]
        assert sum(hooks) == 0
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


class Trained(nn.Module):
    """A model trained by a method and never called itself; one layer is used by a function, one never."""

    def __init__(self):
        super().__init__()
        self.body, self.used, self.never = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def training_step(self, x):
        return nn.functional.linear(self.body(self.body(x).tanh()), self.used.weight, self.used.bias).square().mean()


def test_a_training_loop_that_never_calls_the_model():
    model, x = Trained(), torch.randn(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with verify.watch(model, every=2) as watched:
        for _ in range(5):
            optimizer.zero_grad()
            model.training_step(x).backward()
            optimizer.step()
    assert [(r.step, r.layers["body"].samples) for r in watched.readings] == [(0, 12), (2, 12), (4, 12)]
    reasons = {entry.name: entry.reason for entry in watched.unjudged}
    assert reasons.keys() == {"used", "never"}
    assert "weight and bias get a gradient" in reasons["used"] and "not called" in reasons["never"]


def test_nothing_measured_is_said_for_every_module():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).eval()
    with verify.watch(model, every=1) as watched:
        model(torch.randn(4, 3))
    assert {entry.name for entry in watched.unjudged} == {"0", "1"}
    assert "no step was measured" in watched.unjudged[-1].reason


def test_only_steps_of_training_count():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with verify.watch(model, every=1) as watched:
        model.eval()(x)
        model.train()
        with torch.no_grad():
            model(x)
        model(x)
    assert [reading.step for reading in watched.readings] == [0]


def test_a_forward_pass_that_fails_leaves_no_half_reading():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(5, 2))
    with verify.watch(model, every=1) as watched, pytest.raises(RuntimeError):
        model(torch.randn(4, 3))
    assert watched.readings == []
    assert not model._forward_hooks


@pytest.mark.parametrize("settings", [{}, {"kdim": 5, "vdim": 5}])
def test_attention_reads_as_in_a_diagnosis(settings):
    model, x = Attend(**settings).double(), torch.randn(2, 3, 4, dtype=DOUBLE)
    found = verify.diagnose(model, x, lambda z: z.square().sum(), steps=0)
    with verify.watch(model, every=1) as watched:
        model(x)
    layers = watched.readings[0].layers
    asked = "attention.q" if settings else "attention.qkv"
    for name in (asked, "attention.out_proj"):
        assert layers[name] == found.layer(name).factors
    assert watched.unjudged == ()


def test_torchs_function_is_back_after_a_pass_that_fails_inside_attention():
    model, real = Attend().double(), torch.nn.functional.linear
    with verify.watch(model, every=1) as watched:
        with pytest.raises((AssertionError, RuntimeError)):
            model(torch.randn(2, 3, 5, dtype=DOUBLE))
        assert torch.nn.functional.linear is real
        model(torch.randn(2, 3, 4, dtype=DOUBLE))
        assert torch.nn.functional.linear is real
    assert "attention.out_proj" in watched.readings[-1].layers


def test_a_frozen_output_projection_is_listed():
    model = Attend().double()
    model.attention.out_proj.requires_grad_(False)
    with verify.watch(model, every=1) as watched:
        model(torch.randn(2, 3, 4, dtype=DOUBLE))
    assert [entry.name for entry in watched.unjudged] == ["attention.out_proj"]
    assert "frozen" in watched.unjudged[0].reason


def test_generated_attention_reads_its_constant():
    model, x = ad.AffineLikeMultiheadAttention(4, 2, batch_first=True).double(), torch.randn(2, 3, 4, dtype=DOUBLE)
    wrapped = nn.ModuleDict({"a": model})
    wrapped.forward = lambda x: wrapped["a"](x, x, x, need_weights=False)[0]
    with verify.watch(wrapped, every=1) as watched:
        wrapped(x)
    assert {n: s.ratio for n, s in watched.readings[0].layers.items()} == {"a.qkv": 1, "a.out_proj": 1}
    found = verify.diagnose(wrapped, x, lambda z: z.pow(3).sum())
    assert found.layer("a.qkv").factors.ratio == 1 and "inside" in found.layer("a.qkv").missing
    assert found.layer("a.out_proj").shares.error < 1e-10


@pytest.mark.parametrize(
    ("model", "every", "message"),
    [(nn.ReLU(), 1, "has no parameters"), (nn.Linear(2, 2), 0, "every is 0"), ("text", 1, "the model is a str")],
)
def test_wrong_usage(model, every, message):
    with pytest.raises(UsageError, match=message):
        verify.watch(model, every=every)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_holds_the_readings(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with verify.watch(model, every=2, tensorboard=tmp_path) as watched:
        train(model, x, 3)
    events = loading.EventAccumulator(str(tmp_path)).Reload()
    written = events.Scalars("self factor/root/maximum")
    assert [(e.step, e.value) for e in written] == [
        (r.step, pytest.approx(r.layers[""].maximum)) for r in watched.readings
    ]


def test_without_tensorboard_it_says_how_to_get_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        verify.watch(nn.Linear(2, 2), tensorboard=tmp_path)
