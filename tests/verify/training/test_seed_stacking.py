"""A team: every member gets the same numbers as alone, whatever happens to the others."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from verify.training import graph_simplify as tidied
from verify.training import stacked_update, traced
from verify.training.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint
from verify.training.config import ANGLE, METHODS, METHODS_OF, TrialConfig
from verify.training.data import digits
from verify.training.seed_stacking import TeamRun
from verify.training.trial import TrialRun, run_trial

CONFIG = TrialConfig(
    method="none", learning_rate=0.05, width=8, depth=1, epochs=None, steps=24, evaluate_every=7, probe_every=12
)
SEEDS = (4, 0, 9)
DATA = digits(seed=0)
SMALL = replace(DATA, train=DATA.train.first(320))


def configs(config, seeds=SEEDS):
    return [replace(config, seed=seed) for seed in seeds]


def team(config, seeds=SEEDS, data=SMALL):
    own = configs(config, seeds)
    return TeamRun(own, [data] * len(own), [one.digest for one in own], "team")


def finished(run):
    while run.advance():
        pass
    return run.results()


def numbers(result):
    """All floats of a result, in order."""
    texts = json.dumps([[asdict(p) for p in result.points], [asdict(s) for s in result.spreads], result.test_loss])
    found = []
    json.loads(texts, parse_float=lambda text: found.append(float(text)))
    return torch.tensor(found, dtype=torch.float64)


def assert_same(first, second, bound=1e-9):
    assert (first.config, first.diverged_at) == (second.config, second.diverged_at)
    assert [p.step for p in first.points] == [p.step for p in second.points]
    assert [p.validation_accuracy for p in first.points] == [p.validation_accuracy for p in second.points]
    assert first.test_accuracy == second.test_accuracy
    torch.testing.assert_close(numbers(first), numbers(second), rtol=bound, atol=bound)


@pytest.mark.parametrize(
    ("method", "update"),
    [(method, "sgd") for method in METHODS_OF["mlp"]]
    + [(m, u) for m in ("batch-norm", "affine-like") for u in stacked_update.RULES[1:]],
)
def test_together_and_apart_are_two_routes_to_the_same_numbers(method, update):
    angle = {"angle": "atan(r)"} if method == ANGLE else {}
    config = replace(
        CONFIG, method=method, update=update, learning_rate=0.01 if update.startswith("adam") else 0.05, **angle
    )
    for own, result in zip(configs(config), finished(team(config)), strict=True):
        assert_same(result, run_trial(own, SMALL))


def test_the_comparison_notices_another_update():
    run = team(replace(CONFIG, update="momentum"))
    run.update.learning_rate *= 1 + 1e-6
    with pytest.raises(AssertionError):
        assert_same(finished(run)[0], run_trial(configs(run.config)[0], SMALL))


@pytest.mark.parametrize("method", ["batch-norm", "none"])
def test_what_a_network_keeps_is_that_of_the_single_run(method):
    config = replace(CONFIG, method=method)
    run, alone = team(config), TrialRun(configs(config)[1], SMALL)
    finished(run)
    while alone.advance():
        pass
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(run.members[1].model.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_a_member_that_diverges_leaves_the_others_their_bits():
    run = team(CONFIG)
    for _ in range(9):
        run.advance()
    with torch.no_grad():
        run.parameters[0][1].fill_(torch.inf)
    first, second, third = finished(run)
    assert second.diverged_at == 10 and second.test_accuracy is None
    assert [p.step for p in second.points] == [0, 7]
    undisturbed = finished(team(CONFIG))
    assert [first, third] == [undisturbed[0], undisturbed[2]]


@pytest.mark.parametrize("evaluate_every", [0, 5])
def test_a_team_that_diverges_as_a_whole_says_when_and_ends(evaluate_every):
    config = replace(CONFIG, activation="relu", learning_rate=1e12, steps=500, evaluate_every=evaluate_every)
    run = team(config)
    for own, result in zip(configs(config), finished(run), strict=True):
        assert result.diverged_at is not None
        assert_same(result, run_trial(own, SMALL))
    assert run.step < 100


@pytest.mark.parametrize(
    ("method", "update"), [("batch-norm", "momentum"), ("affine-like", "adam"), ("norm-like", "sgd")]
)
def test_a_team_that_goes_on_gives_the_same_bits(method, update, tmp_path):
    config = replace(CONFIG, method=method, update=update, learning_rate=0.01)
    stopped = team(config)
    for _ in range(13):
        stopped.advance()
    save_checkpoint(stopped, tmp_path / "team.safetensors")
    resumed = team(config)
    load_checkpoint(resumed, tmp_path / "team.safetensors")
    assert resumed.step == 13
    assert finished(resumed) == finished(team(config)) == finished(stopped)
    with pytest.raises(DamagedCheckpoint, match="another trial"):
        load_checkpoint(team(config, SEEDS[:2]), tmp_path / "team.safetensors")


def test_a_graph_is_recorded_once_for_a_shape(monkeypatch):
    recorded = []
    real = traced._record
    monkeypatch.setattr(traced, "_kept", {})
    monkeypatch.setattr(traced, "_record", lambda *given: recorded.append(1) or real(*given))
    for rate in (0.1, 0.2):
        finished(team(replace(CONFIG, learning_rate=rate)))
    assert len(recorded) == 1
    finished(team(CONFIG, SEEDS[:2]))
    assert len(recorded) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_tidied_graph_gives_what_the_recorded_one_gives(method, monkeypatch):
    run = team(replace(CONFIG, method=method))
    run.step = 1
    given = [p.clone() for p in run.parameters], [b.clone() for b in run.buffers], *run._batch()
    tidied = traced._record(run.members[0].model, *given)
    monkeypatch.setattr(traced, "tidy", lambda module: None)
    plain = traced._record(run.members[0].model, *given)
    kept = []
    for function in (tidied, plain):
        buffers = [b.clone() for b in given[1]]
        losses, gradients = function(given[0], buffers, *given[2:])
        kept.append([losses, *gradients, *buffers])
    torch.testing.assert_close(*kept, rtol=1e-12, atol=1e-14)


def gradients_of(method):
    """The parameters of a team and the gradients that its step gives."""
    run = team(replace(CONFIG, method=method))
    run.step = 1
    _, gradients = traced._record(run.members[0].model, run.parameters, run.buffers, *run._batch())(
        run.parameters, [b.clone() for b in run.buffers], *run._batch()
    )
    return run.parameters, gradients


def assert_laid_out_alike(parameters, gradients):
    assert [p.stride() for p in parameters] == [g.stride() for g in gradients]


@pytest.mark.parametrize("method", METHODS)
def test_gradients_lie_in_memory_as_their_parameters_do(method):
    assert_laid_out_alike(*gradients_of(method))


def test_the_comparison_notices_a_transposed_gradient(monkeypatch):
    monkeypatch.setattr(tidied, "_multiply_transposed", lambda graph: None)
    with pytest.raises(AssertionError):
        assert_laid_out_alike(*gradients_of("none"))
