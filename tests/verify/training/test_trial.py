"""A trial: the same settings give the same bits, it learns, and divergence is recorded rather than raised."""

import json
from dataclasses import replace

import pytest
import torch

from verify.training.config import METHODS, TrialConfig, generator
from verify.training.data import Dataset, Split, digits
from verify.training.models import MLP
from verify.training.trial import TrialRun, evaluate, run_trial, steps_of


@pytest.fixture(scope="module")
def data():
    whole = digits(seed=0)
    small = Split(whole.train.x[:320], whole.train.y[:320])
    return replace(whole, train=small)


CONFIG = TrialConfig(method="none", learning_rate=0.1, width=16, epochs=2, evaluate_every=7, probe_every=10)


@pytest.mark.parametrize("method", METHODS)
def test_same_settings_same_bits(method, data):
    config = replace(CONFIG, method=method, epochs=1)
    assert json.dumps(run_trial(config, data).to_json()) == json.dumps(run_trial(config, data).to_json())


def test_trial_uses_no_global_randomness(data):
    torch.manual_seed(0)
    first = run_trial(CONFIG, data)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert run_trial(CONFIG, data) == first
    assert torch.equal(state, torch.get_rng_state())


def test_recorded_steps(data):
    ticks = []
    result = run_trial(CONFIG, data, advance=lambda: ticks.append(1))
    assert steps_of(CONFIG, len(data.train)) == len(ticks) == 20
    assert [p.step for p in result.points] == [0, 7, 14, 20]
    assert sorted({s.step for s in result.spreads}) == [0, 10, 20]
    assert len(result.spreads) == 3 * 3
    assert [(s.step, s.layer) for s in result.own_steps] == [(s.step, s.layer) for s in result.spreads]
    assert result.outcome == "finished"


def test_it_learns(data):
    config = replace(CONFIG, method="affine-like", learning_rate=5.0, epochs=12, probe_every=0)
    result = run_trial(config, data)
    assert result.points[0].validation_accuracy < 0.3
    assert result.test_accuracy > 0.8
    assert result.points[-1].train_loss < 0.3
    assert result.spreads == ()


def test_divergence_is_recorded(data):
    result = run_trial(replace(CONFIG, activation="relu", learning_rate=1e12), data)
    assert result.diverged_at is not None and 1 <= result.diverged_at <= 20
    assert result.outcome == f"diverged at step {result.diverged_at}"
    assert result.test_accuracy is None
    json.dumps(result.to_json(), allow_nan=False)


def test_data_order_is_paired_over_methods(data):
    runs = [
        TrialRun(replace(CONFIG, method=method, learning_rate=rate), data)
        for method, rate in (("none", 1), ("rms-norm", 2))
    ]
    for step in range(1, runs[0].total + 1):
        first, second = (run.batch(step) for run in runs)
        assert torch.equal(first[0], second[0])


def test_small_data_gives_one_short_batch():
    x = torch.randn(5, 64, dtype=torch.float64, generator=generator("small"))
    part = Split(x, torch.arange(5))
    tiny = Dataset("tiny", 10, part, part, part, "")
    assert run_trial(replace(CONFIG, epochs=1), tiny).points[-1].step == 1


def test_accuracy_is_the_share_of_right_answers():
    class Given(MLP):
        def forward(self, x):
            return x

    model = Given(2, 2, method="none", width=1, depth=1, activation="tanh")
    scores = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 0.0], [1.0, 0.0]])
    classes = torch.tensor([0, 1, 1, 0])
    assert evaluate(model, Split(scores, classes))[1] == 0.75
    part = Split(scores, classes, torch.tensor([1, 2]))  # in a tensor that other parts share
    assert evaluate(model, part)[1] == evaluate(model, part.gathered())[1] == 0.5


def test_no_more_samples_are_used_than_asked_for(data):
    config = replace(CONFIG, train_samples=100, evaluation_samples=7, epochs=None, steps=4, batch_size=64)
    run = TrialRun(config, data)
    assert (len(run.data.train), len(run.data.validation), len(run.data.test)) == (100, 7, 7)
    seen = {tuple(row.tolist()) for step in (1, 2, 3, 4) for row in run.batch(step)[0]}
    assert seen <= {tuple(row.tolist()) for row in data.train.x[:100]} and len(seen) > 64
    cut = replace(data, train=data.train.first(100), validation=data.validation.first(7), test=data.test.first(7))
    assert run_trial(config, cut).points == run_trial(config, data).points
    lengths = [steps_of(replace(CONFIG, train_samples=samples), 320) for samples in (0, 100, 1000)]
    assert lengths == [20, 6, 20]
