"""The transformer: attention against torch's and the generated one, causality, its probes and update rules."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softmax

import affine_divergence as ad
from derive.errors import UsageError
from verify.training.config import METHODS_OF, TrialConfig, generator
from verify.training.data import digits, load
from verify.training.dataset import Split
from verify.training.models import build, build_for
from verify.training.probe import Probe
from verify.training.transformer import Block, heads
from verify.training.trial import evaluate, run_trial
from verify.training.updates import Update, nlms_gradient

METHODS = METHODS_OF["transformer"]
CORRECTED = {"norm-like": 2.0, "affine-like": 1.0}
CONFIG = TrialConfig(model="transformer", method="none", learning_rate=0.1, width=8, depth=2, context=6)
LATER = torch.ones(6, 6, dtype=torch.bool).triu(1)
PARTS = ("query", "key", "value")


@pytest.fixture
def x():
    return torch.randn(3, 6, 32, dtype=torch.float64, generator=generator("tokens"))


def model_of(method, **settings):
    return build(replace(CONFIG, method=method, **settings), features=6, classes=5)


def ids(count=4):
    return torch.randint(5, (count, 6), generator=generator("ids"))


def block_of(method):
    block = Block(method=method, width=32, activation="tanh").double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0, 0.3, generator=generator("block", parameter.shape))
    return block


@pytest.mark.parametrize(
    ("method", "twin"), [("none", nn.MultiheadAttention), ("affine-like", ad.AffineLikeMultiheadAttention)]
)
def test_attention_is_that_of_the_layer_in_one_piece(method, twin, x):
    block, whole = block_of(method), twin(32, 2, batch_first=True).double()
    assert block.heads == 2
    with torch.no_grad():
        whole.in_proj_weight.copy_(torch.cat([getattr(block, part).weight for part in PARTS]))
        whole.in_proj_bias.copy_(torch.cat([getattr(block, part).bias for part in PARTS]))
        whole.out_proj.load_state_dict(block.output.state_dict())
    expected, _ = whole(x, x, x, attn_mask=LATER, need_weights=False)
    torch.testing.assert_close(block.attend(x), expected)


def test_attention_of_unit_queries_and_keys_by_hand(x):
    block = block_of("qk-norm")
    q, k, v = (getattr(block, part)(x).reshape(3, 6, 2, 16).transpose(1, 2) for part in PARTS)
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    scores = (4 * q @ k.transpose(2, 3)).masked_fill(LATER, -torch.inf)
    expected = block.output((softmax(scores, -1) @ v).transpose(1, 2).reshape(3, 6, 32))
    torch.testing.assert_close(block.attend(x), expected)


@pytest.mark.parametrize("method", METHODS)
def test_no_token_sees_a_later_one(method):
    model, first = model_of(method), ids()
    other = first.clone()
    other[:, 3:] = (other[:, 3:] + 1) % 5
    before, after = model(first), model(other)
    assert before.shape == (4, 6, 5)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_every_affine_map_starts_near_unit_variance(method):
    model = model_of(method, width=64, depth=1, context=32)
    seen = {}
    for name, layer in model.measured_layers().items():
        layer.register_forward_hook(lambda _, x, z, name=name: seen.__setitem__(name, z.var().item()))
    model(torch.randint(5, (16, 6), generator=generator("ids")))
    assert 0.6 < seen["block 1 query"] < 1.6 and 0.6 < seen["block 1 down"] < 1.6
    assert all(0.2 < variance < 4 for variance in seen.values())


def test_heads_divide_the_width():
    assert [heads(width) for width in (1, 16, 31, 32, 48, 50, 64)] == [1, 1, 1, 2, 3, 2, 4]


def test_torchs_first_values_are_the_same_for_every_method():
    models = [build(replace(CONFIG, method=method, init="torch"), 6, 5) for method in METHODS]
    for parameters in zip(*(model.parameters() for model in models), strict=True):
        assert all(torch.equal(parameters[0], parameter) for parameter in parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_the_identity_in_a_network(method, dtype):
    model = model_of(method, dtype=dtype)
    spreads, own_steps = Probe(model).measure(Split(ids(), ids()), 3, generator("v"))
    assert [one.layer for one in own_steps] == [s.layer for s in spreads] == list(model.measured_layers())
    assert len(own_steps) == 13 and own_steps[0].layer == "block 1 query" and own_steps[-1].layer == "last"
    for one, spread in zip(own_steps, spreads, strict=True):
        if method in CORRECTED:
            assert one.kappa == CORRECTED[method] and spread.ratio == pytest.approx(1, abs=1e-12)
            assert one.error <= one.bound and one.error_float64 < 1e-13
        elif one.layer.endswith("down"):
            assert spread.ratio > 1.05 and one.error > 1e-2


def test_nlms_takes_tokens_as_samples():
    """A whole step of the network against one in which tokens are rows from the start."""
    model, x = model_of("none", update="nlms"), ids()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = []
    handle = model.blocks[0].up.register_forward_hook(lambda _, x, z: seen.append((x[0].detach(), z)))
    loss = cross_entropy(model(x).flatten(0, 1), x.flatten())
    (g,) = torch.autograd.grad(loss, [seen[0][1]])
    handle.remove()
    weight, bias = nlms_gradient(model.blocks[0].up, seen[0][0].flatten(0, 1), g.flatten(0, 1))
    update = Update("nlms", model, 0.5)
    with update.watching():
        loss = cross_entropy(model(x).flatten(0, 1), x.flatten())
    loss.backward()
    update.step()
    up = model.blocks[0].up
    torch.testing.assert_close(up.weight, before["blocks.0.up.weight"] - 0.5 * weight)
    torch.testing.assert_close(up.bias, before["blocks.0.up.bias"] - 0.5 * bias)


def test_loss_and_accuracy_are_a_characters():
    model = model_of("affine-like")
    split = Split(ids(70), ids(71)[1:])
    loss, accuracy = evaluate(model, split)
    scores = model(split.x).detach().reshape(-1, 5)
    assert loss == pytest.approx(float(cross_entropy(scores, split.y.reshape(-1))))
    assert accuracy == pytest.approx(float((scores.argmax(1) == split.y.reshape(-1)).double().mean()))


@pytest.mark.parametrize(("update", "rate"), [("sgd", 1.0), ("foof", 30.0)])
def test_it_learns(update, rate):
    config = replace(CONFIG, method="affine-like", learning_rate=rate, width=16, epochs=None, steps=40, context=16)
    config = replace(config, update=update, dtype="float32", evaluate_every=0, data="declaration")
    result = run_trial(config, load("declaration", 0, torch.float32, 16))
    assert result.points[-1].validation_loss < result.points[0].validation_loss - 0.5


def test_data_must_fit_the_model():
    with pytest.raises(UsageError, match="model = 'transformer' reads text, but this data is images"):
        build_for(CONFIG, digits(0))
    with pytest.raises(UsageError, match="model = 'cnn' reads images, but this data is text"):
        build_for(replace(CONFIG, model="cnn"), load("declaration", 0, context=6))
    with pytest.raises(UsageError, match=r"is a file; images come from a folder.* a text is for model = 'transformer'"):
        load("declaration", 0)
