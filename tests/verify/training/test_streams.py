"""Each purpose has a separate random stream, whose draws depend only on its key."""

import shutil
from dataclasses import replace

import pytest
import torch

from tests.emitted import file_of
from verify.training import identity
from verify.training.config import METHODS_OF, TrialConfig
from verify.training.data import digits, load
from verify.training.dataset import Split, pooled
from verify.training.models import build_for
from verify.training.seed_stacking import TeamRun
from verify.training.seed_stacks import team_of
from verify.training.trial import TrialRun

BASE = TrialConfig("none", 0.3, width=12, epochs=None, steps=30, batch_size=16, train_samples=320, evaluate_every=0)
LOOKS = (
    {"evaluate_every": 1},
    {"evaluate_every": 7, "evaluation_samples": 11},
    {"probe_every": 3},
    {"probe_every": 10, "evaluate_every": 10},
)


def trained(config):
    """The parameters and buffers after a run, with the step at which it diverged."""
    run = TrialRun(config, digits(config.split), "any name")
    while run.advance():
        pass
    return [*run.model.state_dict().values()], run.diverged_at


@pytest.mark.parametrize("method", ["none", "batch-norm", "affine-like"])
@pytest.mark.parametrize("change", [{}, {"update": "momentum"}, {"learning_rate": 1e200, "activation": "relu"}])
def test_looking_changes_no_bit_of_a_run(method, change):
    config = replace(BASE, method=method, **change)
    unseen, diverged_at = trained(config)
    for look in LOOKS:
        seen, at = trained(replace(config, **look))
        assert at == diverged_at
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(unseen, seen, strict=True)), look


def test_looking_changes_no_bit_of_a_team():
    def parameters(look):
        configs = [replace(BASE, method="batch-norm", seed=seed, **look) for seed in range(3)]
        run = TeamRun(configs, [digits(c.split) for c in configs], ["a", "b", "c"], "team")
        while run.advance():
            pass
        return [*run.parameters, *run.buffers]

    unseen = parameters({})
    for look in LOOKS:
        assert all(torch.equal(a, b) for a, b in zip(unseen, parameters(look), strict=True)), look


@pytest.mark.parametrize(
    ("model", "data"), [("mlp", digits(0)), ("cnn", digits(0)), ("transformer", load("declaration", 0, context=8))]
)
@pytest.mark.parametrize("init", ["variance-preserving", "torch"])
def test_first_weights_follow_from_seed_and_layer(model, data, init):
    base = replace(BASE, model=model, width=16, context=8, init=init)
    others = [
        replace(base, learning_rate=7.0, batch_size=8, probe_every=5, steps=3),
        replace(base, update="adam"),
        replace(base, dtype="float32"),
        *(replace(base, method=m) for m in METHODS_OF[model] if m != "angle"),  # its layers are generated first
    ]
    first = list(build_for(base, data).parameters())
    for config in others:
        for one, other in zip(first, build_for(config, data).parameters(), strict=True):
            if one.shape == other.shape and one.norm():
                a, b = one.detach().flatten().double(), other.detach().flatten().double()
                assert float(a @ b / (a.norm() * b.norm())) > 1 - 1e-12 - 1e-6 * (config.dtype == "float32"), config
    again = list(build_for(replace(base, seed=1), data).parameters())
    assert not any(torch.equal(a, b) for a, b in zip(first, again, strict=True) if a.norm())


def test_layers_of_one_shape_start_differently():
    weights = [layer.weight for layer in build_for(replace(BASE, depth=3), digits(0)).affine_layers()]
    assert weights[1].shape == weights[2].shape and not torch.allclose(weights[1], weights[2])


def test_order_and_split_follow_from_the_seed():
    runs = [
        TrialRun(replace(BASE, **change), digits(0))
        for change in ({}, {"method": "rms-norm", "learning_rate": 9.0}, {"dtype": "float32"}, {"batch_size": 64})
    ]
    for epoch in (0, 1):
        assert all(torch.equal(runs[0].order(epoch), run.order(epoch)) for run in runs)
    assert not torch.equal(runs[0].order(0), runs[0].order(1))
    assert (BASE.split, replace(BASE, seed=5).split, replace(BASE, seed=5, split_seed=2).split) == (0, 5, 2)


def test_members_with_splits_of_their_own_train_as_they_do_alone():
    configs = [replace(BASE, seed=seed, evaluate_every=10) for seed in (3, 4, 9)]
    data = [digits(config.split) for config in configs]
    team = TeamRun(configs, data, ["a", "b", "c"], "team")
    while team.advance():
        pass
    for config, own, result in zip(configs, data, team.results(), strict=True):
        alone = TrialRun(config, own)
        while alone.advance():
            pass
        assert result.test_accuracy == alone.result().test_accuracy
        assert result.points[-1].train_loss == pytest.approx(alone.result().points[-1].train_loss, rel=1e-9)


def test_parts_that_share_a_memory_are_pooled_once():
    x, y = torch.arange(6.0).view(6, 1), torch.arange(6)
    shared = [Split(x, y, torch.tensor([4, 1])), Split(x, y, torch.tensor([0, 5]))]
    assert pooled(shared)[0] is x and pooled(shared)[2] == [0, 0]
    other = Split(x + 10, y + 10)
    found, classes, starts = pooled([*shared, other])
    assert starts == [0, 0, 6] and len(found) == 12
    for split, start in zip([*shared, other], starts, strict=True):
        rows = split.numbers(torch.tensor([1, 0])) + start
        assert torch.equal(found[rows], split.of(torch.tensor([1, 0]))[0])
        assert torch.equal(classes[rows], split.gathered().y[torch.tensor([1, 0])])


def test_an_id_covers_the_torch_files_in_use_and_no_kernel_of_a_gpu(tmp_path, monkeypatch):
    copy = tmp_path / "affine_divergence"
    shutil.copytree(identity._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "_PACKAGE", copy)
    corrected, plain = replace(BASE, method="affine-like"), BASE

    def ids():
        identity.layers_digest.cache_clear()
        return [team_of([config], "data").id for config in (corrected, plain)]

    before = ids()
    for path in copy.rglob("*"):
        if path.is_file() and any(name in path.parts for name in ("cuda", "triton", "cpp")):
            path.write_text(path.read_text() + "\n# edited\n")
    assert ids() == before
    changed = copy / file_of("torch", "affine_like.py")
    changed.write_text(changed.read_text() + "\n# edited\n")
    after = ids()
    assert after[0] != before[0] and after[1] == before[1]
    identity.layers_digest.cache_clear()
