"""A captured step on a GPU gives the plain step's numbers, and capturing changes nothing."""

from dataclasses import replace

import pytest
import torch

from verify.training import captured
from verify.training.captured import CAPTURED_RULES, Captured, why_not
from verify.training.config import TrialConfig
from verify.training.data import digits
from verify.training.seed_stacking import TeamRun
from verify.training.stacked_update import RULES
from verify.training.traced import traced_step
from verify.training.trial import run_trial

CONFIG = TrialConfig("none", 0.05, width=8, depth=1, epochs=None, steps=24, evaluate_every=8, device="cuda")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: a graph is captured on one only")


def team(config, count=3):
    configs = [replace(config, seed=seed) for seed in range(count)]
    return TeamRun(configs, [digits(seed=0)] * len(configs), [one.digest for one in configs], "team")


def finished(run):
    while run.advance():
        pass
    return run.results()


def test_what_is_not_captured_says_why():
    assert [why_not(rule) for rule in CAPTURED_RULES] == [None, None]
    assert set(RULES) - set(CAPTURED_RULES) == {"adam", "adamw"}
    assert why_not("adam") == "the constants of adam change from step to step; sgd and momentum are captured"


def test_on_the_cpu_steps_are_plain():
    run = team(replace(CONFIG, device="cpu"))
    run.advance()
    assert run._take is not None and not isinstance(run._take, Captured)


@on_gpu
@pytest.mark.parametrize("rule", CAPTURED_RULES)
@pytest.mark.parametrize("method", ["none", "batch-norm", "affine-like"])
def test_a_captured_step_gives_the_numbers_of_the_plain_one(method, rule, monkeypatch):
    config = replace(CONFIG, method=method, update=rule)
    run = team(config)
    results = finished(run)
    assert isinstance(run._take, Captured)
    monkeypatch.setattr(captured, "why_not", lambda rule: "asked not to")
    for result, other in zip(results, finished(team(config)), strict=True):
        assert result.test_loss == pytest.approx(other.test_loss, rel=1e-9)
        alone = run_trial(result.config, digits(seed=0))
        assert [p.step for p in result.points] == [p.step for p in alone.points]
        assert result.test_loss == pytest.approx(alone.test_loss, rel=1e-9)


@on_gpu
def test_recording_leaves_the_state_as_it_was():
    run = team(replace(CONFIG, method="batch-norm", update="momentum"))
    run.step = 1
    x, y = run._batch()
    state = [*run.parameters, *run.buffers, *run.update.state[0]]
    before = [one.clone() for one in state]
    step = traced_step(run.members[0].model, run.parameters, run.buffers, x, y)
    take = captured.step_taker(step, run.update, run.buffers, x, y)
    assert isinstance(take, Captured)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


@on_gpu
def test_what_cannot_be_captured_falls_back_with_the_reason(capsys):
    results = finished(team(replace(CONFIG, update="adam", learning_rate=0.01)))
    assert all(result.diverged_at is None for result in results)
    assert "note: steps are not captured in a CUDA graph: the constants of adam" in capsys.readouterr().err
