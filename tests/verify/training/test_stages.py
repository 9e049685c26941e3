"""Two stages: tuning seeds at every rate, then judging seeds at the rates that these chose."""

import csv
import io
import json

import pytest

import affdiv
from derive.errors import UsageError
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.plan import expected_table
from verify.training.rates import best_rates
from verify.training.stages import expected, first, tuning_of
from verify.training.store import Store
from verify.training.tables import read_table

TEXT = """
methods = ["none", "affine-like"]
updates = ["sgd"]
learning_rates = [0.03, 0.3, 1.0]
batch_sizes = [64]
seeds = [0, 1, 2, 3, 4]
widths = [4]
depths = [1]
steps = 30
train_samples = 320
evaluation_samples = 100
evaluate_every = 0
judging = "{}"
"""


@pytest.fixture
def swept(tmp_path, monkeypatch, capsys):
    """Return what runs the experiment with the judging seeds at rates of a kind, and gives its table and its state."""
    monkeypatch.chdir(tmp_path)

    def sweep(judging, *options):
        (tmp_path / "mine.toml").write_text(TEXT.format(judging))
        capsys.readouterr()
        assert affdiv.run(["experiment", "run", "mine.toml", "--store", judging, "--json", *options]) == 0
        found = capsys.readouterr()
        with Store(tmp_path / judging) as store:
            return to_csv(store.rows("mine")), json.loads(found.out), found.err

    return sweep


def trials_of(table):
    return {line["trial"]: line for line in csv.DictReader(io.StringIO(table))}


def test_judging_seeds_train_at_the_best_rates_alone_and_give_the_same_trials(swept, tmp_path):
    whole, every, _ = swept("all", "--seeds", "apart", "--workers", "1")
    part, best, _ = swept("best", "--seeds", "apart", "--workers", "1")
    assert best["best_rates"] == every["best_rates"] and len(best["best_rates"]) == 2
    rates = {one["setting"]["method"]: one["learning_rate"] for one in best["best_rates"]}
    asked = [
        t for t in trials_of(whole).values() if t["seed"] == "0" or float(t["learning_rate"]) == rates[t["method"]]
    ]
    assert [*trials_of(part).values()] == asked and len(asked) == 2 * (3 + 4)
    (tmp_path / "part.csv").write_text(part)
    judged = {dict(one.setting)["method"]: one.learning_rate for one in best_rates(read_table(tmp_path / "part.csv"))}
    assert judged == rates


def test_stacks_hold_seeds_of_one_stage_and_a_second_run_has_nothing_to_do(swept, tmp_path):
    part, *_ = swept("best", "--seeds", "together", "--workers", "1")
    (tmp_path / "part.csv").write_text(part)
    (tmp_path / "best").rename(tmp_path / "away")
    again, _, said = swept("best", "--seeds", "together", "--workers", "1", "--from", "part.csv")
    assert again == part
    assert said == "part.csv: 8 trials imported, 6 were present already\n"


def test_the_plan_counts_the_trials_that_there_will_be(tmp_path):
    (tmp_path / "mine.toml").write_text(TEXT.format("best"))
    experiment = load_experiment(tmp_path / "mine.toml")
    assert tuning_of(experiment) == {0} and [len(part) for part in first(experiment)] == [6]
    trials = expected(experiment)
    assert len(trials) == 14 and {t.learning_rate for t in trials if t.seed} == {0.3}
    assert [one.learning_rate for one in best_rates(expected_table(trials))] == [0.3, 0.3]


def test_another_kind_is_refused_and_the_kind_is_part_of_the_experiment(tmp_path):
    texts = []
    for kind in ("best", "all", "some"):
        (tmp_path / "mine.toml").write_text(TEXT.format(kind))
        if kind == "some":
            with pytest.raises(
                UsageError, match=r"mine.toml:13: judging: 'some' is not known; write judging = \"all\""
            ):
                load_experiment(tmp_path / "mine.toml")
        else:
            texts.append(load_experiment(tmp_path / "mine.toml").text)
    assert texts[0] != texts[1]
