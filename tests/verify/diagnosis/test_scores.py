"""Scores of attention against brute force: the whole Jacobian of queries times keys, written out by hand."""

import math

import pytest
import torch
from torch import nn

import verify
from tests.verify.diagnosis.models import DOUBLE
from verify.diagnosis import scores

WIDTH, HEADS, TOKENS, SAMPLES = 4, 2, 3, 2


class Attends(nn.Module):
    """Attention of a batch on itself, or on another input of another width or length."""

    def __init__(self, masks=(), other=None, needed=False, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **settings)
        self.masks, self.other, self.needed = dict(masks), other, needed

    def forward(self, x):
        other = x if self.other is None else self.other
        return self.attention(x, other, other, need_weights=self.needed, **self.masks)[0]


CAUSAL = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False, False, True], [False, False, False]])
CASES = {
    "itself": {},
    "weights returned": {"needed": True},
    "causal": {"masks": {"attn_mask": CAUSAL, "is_causal": True}},
    "a mask of numbers a head": {"masks": {"attn_mask": torch.linspace(-1, 1, 36, dtype=DOUBLE).reshape(4, 3, 3)}},
    "padded": {"masks": {"key_padding_mask": PADDING}},
    "on others": {"other": torch.randn(SAMPLES, 5, WIDTH, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))},
    "on others of another width": {
        "other": torch.randn(SAMPLES, TOKENS, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)),
        "kdim": 5,
        "vdim": 5,
    },
}


def made(name):
    torch.manual_seed(0)
    model = Attends(**CASES[name]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model, torch.randn(SAMPLES, TOKENS, WIDTH, dtype=DOUBLE)


def by_head(tensor):
    return tensor.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def projected(module, x, other):
    """Return queries, keys and values by head, from the parameters themselves."""
    if module.in_proj_weight is None:
        weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    else:
        weights = module.in_proj_weight.chunk(3)
    biases = module.in_proj_bias.chunk(3)
    return [by_head(t @ w.T + b) for t, w, b in zip((x, other, other), weights, biases, strict=True)]


def written_out(model, x):
    """Return the scores and the loss as torch's documentation defines them."""
    other = x if model.other is None else model.other
    q, k, v = projected(model.attention, x, other)
    z = q @ k.mT / math.sqrt(WIDTH // HEADS)
    shown = z
    if "attn_mask" in model.masks:
        mask = model.masks["attn_mask"]
        shown = shown.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else shown + mask.reshape(2, 2, 3, 3)
    if "key_padding_mask" in model.masks:
        shown = shown.masked_fill(PADDING[:, None, None], -torch.inf)
    output = (shown.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return z, loss(model.attention.out_proj(output))


def loss(output):
    return (output.sin() * torch.linspace(0.5, 2, output.numel(), dtype=DOUBLE).view_as(output)).sum()


def asking(module):
    """Return the parameters of queries and keys; the values' rows are masked out if all share one tensor."""
    if module.in_proj_weight is None:
        return [module.q_proj_weight, module.k_proj_weight, module.in_proj_bias]
    return [module.in_proj_weight, module.in_proj_bias]


def flat(gradients):
    """Return gradients as one vector, without the rows of the values."""
    kept = [g[: 2 * WIDTH] if len(g) == 3 * WIDTH else g for g in gradients]
    return torch.cat([g.flatten() for g in kept])


@pytest.mark.parametrize("name", CASES)
def test_shares_and_parts_are_those_of_the_whole_jacobian(name):
    model, x = made(name)
    z, value = written_out(model, x)
    own = asking(model.attention)
    (g,) = torch.autograd.grad(value, z, retain_graph=True)
    step = flat(torch.autograd.grad(value, own, retain_graph=True))
    rows = [flat([torch.zeros_like(p) if d is None else d for p, d in zip(own, torch.autograd.grad(
        e, own, retain_graph=True, allow_unused=True), strict=True)]) for e in z.reshape(-1)]  # fmt: skip
    jacobian = torch.stack(rows)
    factors = jacobian.square().sum(1)
    alone, every = factors * g.reshape(-1), jacobian @ step
    rate = 1e-3
    found = verify.diagnose(model, x, loss, rate=rate)
    layer = found.layer("attention.scores")
    assert found.ok and layer.law == "attention" and layer.shares.error < 1e-11
    parts = float(alone.square().sum()), float((every - alone).square().sum())
    assert layer.shares.own == pytest.approx(parts[0] / sum(parts), rel=1e-9)
    assert layer.factors.minimum == pytest.approx(float(factors.min()))
    assert layer.factors.maximum == pytest.approx(float(factors.max()))
    assert layer.factors.samples == z.numel()
    loss(model(x)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= rate * parameter.grad
        change = written_out(model, x)[0] - z.detach()
    assert layer.parts.own == pytest.approx(1) and layer.parts.upstream == 0
    assert layer.parts.update_to_activation == pytest.approx(float(change.norm() / z.detach().norm()), rel=1e-9)


def test_the_layers_in_front_move_the_scores_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Attends()).double()
    x = torch.randn(SAMPLES, TOKENS, WIDTH, dtype=DOUBLE)
    parts = verify.diagnose(model, x, loss, rate=0.1).layer("1.attention.scores").parts
    assert parts.own + parts.upstream + parts.both == pytest.approx(1)
    with torch.no_grad():
        before = model[0](x)
        old = written_out(model[1], before)[0]
    loss(model(x)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
        own = written_out(model[1], before)[0] - old
        change = written_out(model[1], model[0](x))[0] - old
    assert parts.own == pytest.approx(float((own * change).sum() / change.square().sum()))


def test_a_wrong_kernel_is_seen(monkeypatch):
    real = scores.kernel_of_inputs
    monkeypatch.setattr(scores, "kernel_of_inputs", lambda *arguments: 1.01 * real(*arguments))
    model, x = made("itself")
    assert not verify.diagnose(model, x, loss).layer("attention.scores").shares.exact


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"add_bias_kv": True}, "keys that belong to no token"),
        ({"add_zero_attn": True}, "keys that belong to no token"),
        ({"bias": False}, "needs trained weights and biases"),
    ],
)
def test_what_has_no_law_says_why(settings, reason):
    x = torch.randn(SAMPLES, TOKENS, WIDTH)
    found = verify.diagnose(Attends(**settings), x, lambda z: z.square().mean())
    assert reason in next(entry.reason for entry in found.unjudged if entry.name == "attention.scores")


def test_dropout_inside_leaves_the_factors():
    x = torch.randn(SAMPLES, TOKENS, WIDTH)
    layer = verify.diagnose(Attends(dropout=0.5), x, lambda z: z.square().mean()).layer("attention.scores")
    assert layer.shares is None and "dropout" in layer.missing and layer.factors.minimum > 0


def test_a_mask_that_is_not_taken_into_account_is_seen(monkeypatch):
    monkeypatch.setattr(scores, "_mask", lambda *_, **__: 0.0)
    model, x = made("causal")
    layer = verify.diagnose(model, x, loss).layer("attention.scores")
    assert layer.shares is None and "does not match the gradients at queries and keys" in layer.missing
