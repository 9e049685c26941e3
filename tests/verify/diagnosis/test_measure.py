"""Shares and self factors against brute force: a layer's whole Jacobian J and its kernel J J^T."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import verify
from derive.errors import UsageError
from tests.verify.diagnosis.models import DOUBLE, LAYERS, Attend, network, single, tied
from verify.diagnosis import step
from verify.diagnosis.captured_factors import LAW

pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def brute(module, x, loss):
    """Return K (entries, entries) of a layer's output, the gradient of the loss there, and the unit axis last."""
    z = module(x)
    z = z if isinstance(module, nn.Embedding) or z.dim() == 2 or type(module).__name__ in ROWWISE else z.movedim(1, -1)
    g = torch.autograd.grad(loss(module(x)), list(module.parameters()), allow_unused=True)
    assert any(part is not None for part in g)
    rows = []
    for entry in z.reshape(-1):
        found = torch.autograd.grad(entry, list(module.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in found]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T, z.shape


ROWWISE = ("Linear", "Conv1D", "AffineLike", "NormLike")


def output_gradient(module, x, loss):
    z = module(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(z), z)
    rowwise = isinstance(module, nn.Embedding) or z.dim() == 2 or type(module).__name__ in ROWWISE
    return (g if rowwise else g.movedim(1, -1)).reshape(-1)


@pytest.mark.parametrize("name", LAYERS)
def test_shares_and_factors_are_those_of_the_whole_kernel(name):
    module, x, loss = single(name)
    kernel, shape = brute(module, x, loss)
    g = output_gradient(module, x, loss)
    units = shape[-1]
    sample = torch.arange(len(g)) // units
    within = sample[:, None] == sample[None, :]
    own, cross = (kernel * within) @ g, (kernel * ~within) @ g
    found = verify.diagnose(module, x, loss, steps=0).layers[0]
    assert found.shares is not None and found.shares.exact and found.shares.error < 1e-11
    assert found.shares.elsewhere == 0
    total = own.square().sum() + cross.square().sum()
    assert found.shares.own == pytest.approx(float(own.square().sum() / total), rel=1e-9)
    assert found.shares.cross == pytest.approx(float(cross.square().sum() / total), rel=1e-9)
    diagonal = kernel.diagonal()
    assert found.factors.minimum == pytest.approx(float(diagonal.min()), rel=1e-9, abs=1e-12)
    assert found.factors.maximum == pytest.approx(float(diagonal.max()), rel=1e-9)
    assert found.factors.samples * units == len(g) * getattr(module, "groups", 1)


def test_an_embedding_is_moved_by_repeated_tokens_only():
    module = nn.Embedding(5, 2).double()
    alone = verify.diagnose(module, torch.tensor([0, 1, 2]), torch.sum, steps=0).layers[0]
    assert alone.shares.own == 1 and alone.advice == ""
    padded = nn.Embedding(5, 2, padding_idx=0).double()
    assert "padding token" in verify.diagnose(padded, torch.tensor([0, 1]), torch.sum, steps=0).layers[0].note
    twice = verify.diagnose(module, torch.tensor([0, 0]), torch.sum, steps=0).layers[0]
    assert twice.shares.own == pytest.approx(0.5)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"kdim": 5, "vdim": 5}, {"add_bias_kv": True}])
def test_attention_is_judged_by_projection(settings):
    torch.manual_seed(0)
    model = Attend(**settings).double()
    x = torch.randn(2, 3, 4, dtype=DOUBLE)
    found = verify.diagnose(model, x, lambda z: z.pow(3).sum())
    names = ["q", "k", "v"] if "kdim" in settings else ["qkv"]
    layers = [layer for layer in found.layers if not layer.name.endswith("scores")]
    assert [m.name for m in layers] == [f"attention.{name}" for name in [*names, "out_proj"]]
    bias = settings.get("bias", True)
    asked = found.layer(f"attention.{names[0]}").factors
    lengths = x.square().sum(-1) + (1 if bias else 0)
    assert (asked.minimum, asked.maximum) == pytest.approx((float(lengths.min()), float(lengths.max())))
    for layer in layers:
        assert layer.sample == "token"
        assert layer.shares is None or layer.shares.error < 1e-10, layer.name


def test_a_layer_used_twice_and_tied_weights():
    found = verify.diagnose(*tied())
    twice, head, table = found.layer("twice"), found.layer("head"), found.layer("embedding")
    assert twice.calls == 2 and twice.factors.samples == 24 and "2 times" in twice.note
    assert twice.shares.error < 1e-11 and twice.shares.elsewhere == 0
    for layer, other in ((head, "embedding.weight"), (table, "head.weight")):
        assert other in layer.note
        assert layer.shares.elsewhere > 0.01 and layer.shares.error < 1e-11


def test_the_step_on_a_tied_weight_is_what_other_uses_add():
    """The change of the head by the gradient that reaches the table through the embedding, computed separately."""
    model, t, loss = tied()
    found = verify.diagnose(model, t, loss, steps=0).layer("head")
    held = {}
    handle = model.head.register_forward_hook(lambda _, x, z: held.update(x=x[0], z=z))
    loss(model(t), t).backward()
    handle.remove()
    x, z = (held[name].detach().flatten(0, 1) for name in ("x", "z"))
    g = torch.softmax(z, -1) - torch.eye(7, dtype=DOUBLE)[t.flatten()]
    g = g / len(g)
    through_head = g.T @ x
    elsewhere = x @ (model.head.weight.grad - through_head).T
    own = x.square().sum(-1, keepdim=True) * g
    cross = x @ through_head.T - own
    parts = [float(part.square().sum()) for part in (own, cross, elsewhere)]
    assert [found.shares.own, found.shares.cross, found.shares.elsewhere] == pytest.approx(
        [part / sum(parts) for part in parts], rel=1e-9
    )


def test_what_cannot_be_judged_is_listed_with_its_reason():
    found = verify.diagnose(*tied())
    assert found.layer("vain").shares is None and "does not reach the loss" in found.layer("vain").missing
    reasons = {entry.name: entry.reason for entry in found.unjudged}
    assert reasons.keys() == {"never"} and "not called" in reasons["never"]
    assert found.layer("").law == LAW


def test_every_module_with_parameters_is_named():
    model, t, loss = tied()
    found = verify.diagnose(model, t, loss)
    named = {layer.name for layer in found.layers} | {entry.name for entry in found.unjudged}
    assert named == {name for name, module in model.named_modules() if list(module.parameters(recurse=False))}


@pytest.mark.parametrize(("frozen", "kept"), [("weight", "bias"), ("bias", "weight")])
@pytest.mark.parametrize("name", ["Linear", "Conv1D", "Conv2d", "ConvTranspose1d"])
def test_a_partly_frozen_layer_moves_by_what_is_trained(name, frozen, kept):
    module, x, loss = single(name)
    getattr(module, frozen).requires_grad_(False)
    found = verify.diagnose(module, x, loss, steps=0).layers[0]
    assert found.shares.error < 1e-11 and f"only its {kept}" in found.note
    if kept == "bias":
        assert (found.factors.minimum, found.factors.maximum) == (1, 1)


def test_a_frozen_layer_is_listed():
    model, batch, loss = network()
    model[0].requires_grad_(False)
    found = verify.diagnose(model, batch, loss)
    assert "frozen" in next(entry.reason for entry in found.unjudged if entry.name == "0")
    assert found.layer("4").shares.exact


def test_in_place_activations_do_not_move_the_gradient():
    model, batch, loss = network()
    found = verify.diagnose(model, batch, loss)
    assert found.ok and [layer.name for layer in found.layers] == ["0", "1", "4", "7"]
    assert all(layer.shares.elsewhere == 0 for layer in found.layers)


def test_drift_follows_real_steps():
    """The self factors after two real steps of torch's SGD equal those that the diagnosis predicted."""
    model, x, loss = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), None, None
    x, loss = torch.randn(6, 3, dtype=DOUBLE), lambda z: z.square().sum()
    found = verify.diagnose(model, x, loss, steps=2, rate=0.05).layer("2")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        loss(model(x)).backward()
        optimiser.step()
    factors = model[:2](x).square().sum(-1) + 1
    assert found.history[2].maximum == pytest.approx(factors.max().item(), rel=1e-12)
    assert found.drift == pytest.approx(factors.median().item() / found.factors.median, rel=1e-12)


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "Embedding", "AffineLike"])
def test_a_wrong_kernel_is_seen(name, monkeypatch):
    real = step.kernel
    monkeypatch.setattr(step, "kernel", lambda *arguments: real(*arguments) * 1.01)
    module, x, loss = single(name)
    found = verify.diagnose(module, x, loss)
    assert not found.ok and not found.layers[0].shares.exact


def test_single_and_half_precision_agree_within_their_rounding():
    for kind in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model, x = nn.Linear(16, 8).to(kind), torch.randn(40, 16).to(kind)
        layer = verify.diagnose(model, x, lambda z: z.float().square().mean()).layers[0]
        assert 1e-12 < layer.shares.error < layer.shares.bound


@pytest.mark.parametrize(("size", "slope"), [(1.0, 1e-25), (1e15, 1e10), (1e-12, 1e-9)])
def test_numbers_for_which_single_precision_has_no_room(size, slope):
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3, bias=False), torch.randn(9, 6)
    weights = torch.linspace(1, 2, 27).view(9, 3)
    usual = verify.diagnose(model, x, lambda z: (weights * z).sum(), steps=0).layers[0].shares
    found = verify.diagnose(model, size * x, lambda z: slope * (weights * z).sum(), steps=0).layers[0].shares
    assert found.exact and (found.own, found.cross) == pytest.approx((usual.own, usual.cross), rel=1e-4)


class Sparing(nn.Module):
    """Two layers that divide the samples like experts, and one that is called with none."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        parts = self.first(x[:2]), self.second(x[2:]), self.third(x[:0]), self.first(x[:0])
        return torch.cat(parts)


def test_calls_without_samples_count_for_nothing():
    found = verify.diagnose(Sparing().double(), torch.randn(5, 3, dtype=DOUBLE), lambda z: z.square().sum())
    assert {layer.name: (layer.calls, layer.factors.samples) for layer in found.layers} == {
        "first": (1, 2),
        "second": (1, 3),
    }
    assert [(entry.name, entry.reason) for entry in found.unjudged] == [
        ("third", "it is called without a single sample")
    ]


class Longer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(2, 2, 3, stride=2)

    def forward(self, x):
        return self.up(x, output_size=[8])


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores, self.head = nn.Linear(2, 2, bias=False), nn.Linear(2, 1)

    def forward(self, x):
        return self.head(x) + torch.exp(self.scores(torch.tensor([[-torch.inf, -torch.inf]])).nan_to_num() * 0)


@pytest.mark.parametrize(
    ("model", "x", "name", "reason"),
    [
        (Masked(), torch.randn(3, 2), "scores", "NaN or infinity"),
        (nn.Sequential(nn.Embedding(4, 2, max_norm=1.0)), torch.tensor([0, 1]), "0", "max_norm"),
        (nn.Sequential(nn.EmbeddingBag(4, 2, max_norm=1.0)), torch.tensor([[0, 1]]), "0", "max_norm"),
    ],
)
def test_settings_that_cannot_be_judged_say_why(model, x, name, reason):
    def loss(z):
        return (z[0] if isinstance(z, tuple) else z).square().mean()

    found = verify.diagnose(model, x, loss, steps=0)
    assert reason in next(entry.reason for entry in found.unjudged if entry.name == name)


def test_parameters_that_are_computed_are_judged_by_their_captured_program():
    pruned, normed = nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3, bias=False))
    prune.random_unstructured(pruned, "weight", 0.3)
    model = nn.Sequential(pruned, normed, Longer(), nn.Flatten(0), nn.Unflatten(0, (-1, 4)))
    found = verify.diagnose(model, torch.randn(4, 2, 3), lambda z: z.square().mean())
    assert {layer.name: layer.law for layer in found.layers} == dict.fromkeys(("0", "1", "2.up"), LAW)
    assert found.unjudged == () and found.judged == 1 and found.ok


class Elsewhere(nn.Module):
    """A layer whose weight is used again by a function."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(self.linear(x).tanh(), self.linear.weight)


def test_a_weight_that_a_function_uses_too():
    found = verify.diagnose(Elsewhere().double(), torch.randn(5, 4, dtype=DOUBLE), lambda z: z.square().sum())
    layer = found.layer("linear")
    assert layer.shares.exact and layer.shares.elsewhere > 1e-3 and "outside its own calls" in layer.note


def test_checkpointing_that_recomputes_counts_each_call_once():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False).tanh())

    found = verify.diagnose(Checkpointed(), torch.randn(4, 3), lambda z: z.square().mean())
    assert [(m.name, m.calls, m.shares.exact) for m in found.layers] == [("body", 1, True), ("head", 1, True)]


def test_steps_that_leave_the_finite_numbers_end_the_history():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    found = verify.diagnose(model, 1e3 * torch.randn(2, 3), lambda z: z.pow(4).mean(), steps=9, rate=10.0)
    assert 1 <= len(found.losses) < 10 and "no step can be taken" in found.stopped and found.stopped in str(found)
    assert "NaN" not in json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_modules_of_torch_jit_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)))
    with pytest.raises(UsageError, match=r"compiled by torch\.jit"):
        verify.diagnose(model, torch.randn(2, 2), torch.sum)


@pytest.mark.parametrize("name", [name for name in LAYERS if "AffineLike" not in name])
def test_a_part_of_the_rows_gives_the_same_shares(name, monkeypatch):
    module, x, loss = single(name)
    every = verify.diagnose(module, x, loss, steps=0).layers[0].shares
    monkeypatch.setattr(step, "MANY", 0)
    part = verify.diagnose(module, x, loss, steps=0).layers[0].shares
    assert (part.own, part.cross) == pytest.approx((every.own, every.cross), rel=1e-9)
    assert part.elsewhere == 0 and part.error < 1e-11


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "Embedding"])
def test_a_wrong_kernel_is_seen_by_a_part_of_the_rows(name, monkeypatch):
    real = step.kernel
    monkeypatch.setattr(step, "MANY", 0)
    monkeypatch.setattr(step, "kernel", lambda *arguments: real(*arguments) * 1.01)
    module, x, loss = single(name)
    assert not verify.diagnose(module, x, loss).ok


def test_other_uses_are_seen_where_a_part_of_the_rows_is_checked(monkeypatch):
    whole = verify.diagnose(*tied())
    monkeypatch.setattr(step, "MANY", 0)
    part = verify.diagnose(*tied())
    for one, other in zip(whole.layers, part.layers, strict=True):
        if one.shares is not None:
            assert other.shares.elsewhere == pytest.approx(one.shares.elsewhere, abs=1e-9)
