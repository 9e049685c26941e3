"""The best rate of each setting: by validation over the seeds, divergence last, the grid's edge marked."""

from dataclasses import replace

import pytest

from verify.training.config import TrialConfig
from verify.training.export import line
from verify.training.rates import best_rates, tuning_seeds
from verify.training.store import Row

BASE = TrialConfig(method="none", learning_rate=0.1)


def row(rate, accuracy, loss=1.0, seed=0, diverged=False, done=True, **settings):
    point = {"step": 9, "train_loss": 0.0, "validation_loss": loss, "validation_accuracy": accuracy}
    result = {"points": [point], "spreads": [], "diverged_at": 3 if diverged else None}
    result |= {"test_loss": None, "test_accuracy": None}
    config = replace(BASE, learning_rate=rate, seed=seed, **settings)
    return line(Row(f"{config}", config, "done", 9, 9, 0, None, result if done else None))


def test_the_best_mean_over_seeds_wins():
    accuracies = {(0.1, 0): 0.5, (0.1, 1): 0.5, (1.0, 0): 0.9, (1.0, 1): 0.4, (10.0, 0): 0.6, (10.0, 1): 0.6}
    judging = [row(rate, 1.0 / (1.0 + rate), seed=seed) for rate in (0.1, 1.0, 10.0) for seed in range(2, 8)]
    rows = [*judging, *(row(rate, accuracy, seed=seed) for (rate, seed), accuracy in accuracies.items())]
    (best,) = best_rates(rows)
    assert (best.learning_rate, best.at_edge) == (1.0, False)
    assert best.validation_accuracy == pytest.approx(0.65)
    assert best.setting == (("method", "none"),)


@pytest.mark.parametrize("end", [0.1, 10.0])
def test_an_end_of_the_grid_is_named(end):
    (best,) = best_rates([row(rate, 0.9 if rate == end else 0.5) for rate in (0.1, 1.0, 10.0)])
    assert (best.learning_rate, best.at_edge) == (end, True)


def test_a_quarter_of_the_seeds_choose_and_the_others_judge():
    def seeds(count, rates=(0.1, 1.0), **settings):
        return tuning_seeds([row(rate, 0.5, seed=seed, **settings) for rate in rates for seed in range(3, 3 + count)])

    assert [sorted(seeds(count)) for count in (1, 5, 8, 12)] == [[3], [3], [3, 4], [3, 4, 5]]
    assert seeds(8, rates=[0.1]) == set(), "nothing is chosen"
    assert seeds(8, rates=[0.1], method="angle", angle="atan(r)") == {3, 4}, "members of the family are"


def test_a_single_rate_is_no_grid():
    assert best_rates([row(1.0, 0.5)])[0].at_edge is None


def test_a_rate_at_which_a_seed_diverges_loses():
    rows = [row(0.1, 0.4), row(0.1, 0.4, seed=1), row(1.0, 0.99), row(1.0, 0.99, seed=1, diverged=True)]
    rows += [row(rate, 0.5, seed=seed) for rate in (0.1, 1.0) for seed in range(2, 8)]
    assert best_rates(rows)[0].learning_rate == 0.1
    gone = best_rates([row(0.1, 0.0, diverged=True), row(1.0, 0.0, diverged=True)])[0]
    assert gone.validation_accuracy is None


def test_the_loss_breaks_ties():
    assert (
        best_rates([row(0.1, 0.5, loss=2.0), row(1.0, 0.5, loss=1.0), row(2.0, 0.5, loss=3.0)])[0].learning_rate == 1.0
    )


def test_every_setting_has_its_own_best_and_what_does_not_vary_is_not_named():
    rows = [row(rate, 0.5, method=m, width=w) for m in ("none", "rms-norm") for w in (8, 16) for rate in (0.1, 1.0)]
    rows.append(row(10.0, 0.5, method="none", width=8, done=False))
    assert [dict(best.setting) for best in best_rates(rows)] == [
        {"method": "none", "width": 16},
        {"method": "rms-norm", "width": 8},
        {"method": "rms-norm", "width": 16},
    ]
    assert best_rates([]) == []
