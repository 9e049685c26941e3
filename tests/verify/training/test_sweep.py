"""The small experiment: rates from validation data alone, new seeds for the reported results, complete progress."""

from dataclasses import replace

import pytest

from verify.training.config import TrialConfig
from verify.training.sweep import Plan, choose, mean_test_accuracy, nominal_kappa, run_sweep, short_plan
from verify.training.trial import Point, TrialResult

BASE = TrialConfig(method="none", learning_rate=1.0, width=8, epochs=1, batch_size=128, evaluate_every=50)
PLAN = Plan(BASE, methods=("none", "affine-like"), effective_rates=(1.0, 10.0), seeds=2, probe_every=4)


def result(rate, accuracy, loss, diverged_at=None, seed=0):
    config = replace(BASE, learning_rate=rate, seed=seed)
    test = None if diverged_at else accuracy
    return TrialResult(config, (Point(8, loss, loss, accuracy),), (), diverged_at, test)


@pytest.fixture(scope="module")
def sweep():
    return run_sweep(PLAN)


def test_trials_of_a_plan(sweep):
    assert [(r.config.method, r.config.seed) for r in sweep.tuning] == [("none", 0)] * 2 + [("affine-like", 0)] * 2
    assert [(r.config.method, r.config.seed) for r in sweep.final] == [
        ("none", 1),
        ("none", 2),
        ("affine-like", 1),
        ("affine-like", 2),
    ]
    assert all(not r.spreads for r in sweep.tuning)
    assert all(r.spreads for r in sweep.final)


def test_affine_like_layers_keep_the_ideal_self_factor_while_they_train(sweep):
    factors = [value for r in sweep.of("affine-like") for s in r.spreads for value in (s.minimum, s.maximum)]
    assert max(abs(value - 1) for value in factors) < 1e-12
    assert max(s.ratio for r in sweep.of("none") for s in r.spreads) > 1.5


def test_progress_reaches_its_total():
    seen = []
    run_sweep(replace(PLAN, seeds=1), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == 2 * 3 * 8
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_choice_by_validation_accuracy_then_loss():
    trials = (result(0.1, 0.9, 0.5), result(0.2, 0.95, 0.4), result(0.3, 0.95, 0.3), result(0.4, 0.9, 0.1))
    choice = choose(PLAN, "none", trials)
    assert (choice.learning_rate, choice.at_edge) == (0.3, False)
    assert choice.effective_rate == pytest.approx(0.3 * nominal_kappa("none", 8))


def test_a_diverged_trial_is_never_chosen_and_an_edge_is_reported():
    trials = (result(0.1, 0.5, 2.0), result(0.2, 0.99, 0.0, diverged_at=3))
    choice = choose(PLAN, "none", trials)
    assert (choice.learning_rate, choice.at_edge) == (0.1, True)


def test_mean_of_test_accuracies():
    assert mean_test_accuracy([result(1.0, 0.5, 1.0), result(1.0, 1.0, 1.0)]) == 0.75
    assert mean_test_accuracy([result(1.0, 0.5, 1.0), result(1.0, 1.0, 1.0, diverged_at=1)]) is None


def test_short_plan_meets_the_same_effective_rates_with_every_method():
    plan = short_plan(seed=5)
    by_method = {}
    for config in plan.tuning():
        rate = config.learning_rate * nominal_kappa(config.method, config.width)
        by_method.setdefault(config.method, []).append(round(rate, 9))
    assert len(by_method) == 6
    assert all(rates == list(plan.effective_rates) for rates in by_method.values())
    assert {config.seed for config in plan.tuning()} == {5}
    assert {config.seed for config in plan.final(dict.fromkeys(plan.methods, 1.0))} == {6, 7, 8}


def test_results_are_plain_data(sweep):
    import json

    text = json.dumps(sweep.to_json(), allow_nan=False)
    assert '"diverged_at": null' in text and sweep.data_digest in text
