"""The plan of an experiment predicts its power and cost before the run, with the code that will judge it."""

import json

import pytest

import affdiv
from derive.errors import UsageError
from verify.statistics import power
from verify.training import plan as planning
from verify.training.experiment import load_experiment
from verify.training.plan import expected_table, plan, text
from verify.training.rates import best_rates
from verify.training.worker import data_of

LINES = """
methods = ["none", "affine-like", "rms-norm"]
learning_rates = [0.1, 0.3, 1.0]
seeds = [0, 1, 2, 3, 4, 5, 6, 7]
widths = [8]
depths = [1]
steps = 50
effect = 0.02
deviation = 0.01
"""


@pytest.fixture
def load(tmp_path):
    def loaded(lines=LINES):
        (tmp_path / "mine.toml").write_text(lines)
        return load_experiment(tmp_path / "mine.toml")

    return loaded


def planned(experiment):
    return plan(experiment, lambda config: data_of(config, "digits"))


def test_the_plan_is_of_the_statements_that_will_be_made(load):
    found = planned(load())
    assert (found.trials, found.steps, found.tuning, found.judging) == (72, 72 * 50, (0, 1), (2, 3, 4, 5, 6, 7))
    (only,) = found.visible
    assert (only.hypothesis, only.statements, only.seeds) == ("H3", 2, 6)
    assert power(only.smallest, 0.01, 6, 2) == pytest.approx(0.8)
    assert power(0.02, 0.01, only.needed, 2) >= 0.8 > power(0.02, 0.01, only.needed - 1, 2)
    assert 0 < found.seconds < 3600 and found.open == ()
    assert "statements 2, judging seeds 6: the smallest effect" in text(found)


def test_without_a_deviation_effects_are_in_deviations(load):
    found = planned(load(LINES.replace("deviation = 0.01", "power = 0.9")))
    assert power(found.visible[0].smallest, 1.0, 6, 2) == pytest.approx(0.9)
    assert found.visible[0].needed is None and "standard deviations of a paired difference" in text(found)


def test_what_can_conclude_nothing_is_said(load):
    few = planned(load(LINES.replace("6, 7", "6").replace("4, 5, 6", "4")))
    assert "nothing is concluded from fewer than 5 judging seeds" in text(few)
    fixed = planned(load(LINES + "split_seed = 0\n"))
    assert fixed.open == ("H3: all seeds share one split of the data",)
    unlike = planned(load(LINES + "method_learning_rates = { none = [0.1, 0.2, 0.4, 0.8] }\n"))
    assert "grids of rates are not equally fine" in unlike.open[0]
    assert "no hypothesis compares these trials" in text(planned(load(LINES.replace('"affine-like", ', ""))))


def test_the_expected_table_has_its_best_rates_inside(load):
    assert [best.at_edge for best in best_rates(expected_table(load().trials))] == [False] * 3


def test_networks_that_are_not_reached_in_time_cost_what_others_do(load, monkeypatch):
    monkeypatch.setattr(planning, "LONGEST", 0.0)
    monkeypatch.setattr(planning, "_seconds_a_step", lambda config, data: 2.0)
    assert planned(load()).seconds == 2.0 * 72 * 50


def test_the_command(load, tmp_path, capsys):
    load()
    assert affdiv.run(["experiment", "plan", str(tmp_path / "mine.toml"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["schema"], printed["trials"], printed["judging_seeds"]) == ("affdiv.plan/1", 72, [2, 3, 4, 5, 6, 7])
    assert printed["hypotheses"][0]["smallest_effect"] > 0
    assert affdiv.run(["experiment", "plan", str(tmp_path / "mine.toml")]) == 0
    assert "smallest effect" in capsys.readouterr().out


@pytest.mark.parametrize("line", ['effect = "much"', "deviation = 0", "power = 1.0", "effect = true", "effect = nan"])
def test_aims_that_are_none(load, line):
    key = line.split()[0]
    with pytest.raises(UsageError, match=rf"mine\.toml:\d+: {key}: .* is not a valid {key}; give a number above 0"):
        load("\n".join(own for own in LINES.splitlines() if not own.startswith(key)) + f"\n{line}\n")
