"""Teams depend only on the experiment, and change no number by more than rounding."""

import csv
import io
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import affdiv
from verify.training.config import METHODS, TrialConfig
from verify.training.data import digits
from verify.training.driver import register
from verify.training.experiment import load_experiment
from verify.training.export import METRICS, to_csv
from verify.training.seed_stacks import MOST_MEMBERS, measured, pays, products, team_of, teams
from verify.training.store import Store
from verify.training.worker import Job, work

BASE = TrialConfig(method="none", learning_rate=0.1)
DATA = digits(seed=0)
TEXT = """
methods = ["batch-norm", "affine-like"]
updates = ["sgd", "nlms"]
learning_rates = [0.05]
seeds = [5, 0]
widths = [8]
depths = [1]
steps = 30
evaluate_every = 10
"""


def grid(**lists):
    return {replace(BASE, **dict(zip(lists, values, strict=True))): DATA for values in product(*lists.values())}


def seeds_of(found):
    return sorted(tuple(config.seed for config in team) for team in found)


def test_a_team_is_what_differs_in_the_seed_alone():
    trials = grid(seed=[2, 0, 1], learning_rate=[0.1, 0.2], method=METHODS)
    found = teams(trials, "together")
    assert seeds_of(found) == [(0, 1, 2)] * (2 * len(METHODS))
    assert all(len({replace(config, seed=0) for config in team}) == 1 for team in found)
    assert sorted((c for team in found for c in team), key=repr) == sorted(trials, key=repr)
    assert teams(dict(reversed(trials.items())), "together")[-1] == found[0], "the order of the file does not matter"


def test_large_teams_are_parted_and_what_cannot_be_stacked_is_alone():
    many = teams(grid(seed=list(range(MOST_MEMBERS["cpu"] + 3))), "together")
    assert [len(team) for team in many] == [MOST_MEMBERS["cpu"], 3]
    assert seeds_of(teams(grid(seed=[0, 1], update=["nlms", "foof"]), "together")) == [(0,), (0,), (1,), (1,)]
    assert seeds_of(teams(grid(seed=[0, 1]), "apart")) == [(0,), (1,)]


def test_by_itself_a_team_is_made_where_it_was_measured_to_be_faster():
    limits = measured()
    small = replace(BASE, epochs=None, steps=limits["least_steps"] // 2)
    assert products(small, 64, 10) <= limits["most_products"]
    assert pays(small, DATA, 2)
    assert not pays(replace(small, steps=small.steps - 1), DATA, 2)
    assert not pays(replace(small, width=4096), DATA, 2)
    wide = replace(small, width=4096)
    assert [len(team) for team in teams({c: DATA for c in (wide, replace(wide, seed=1))}, "auto")] == [1, 1]
    assert [len(team) for team in teams({c: DATA for c in (small, replace(small, seed=1))}, "auto")] == [2]


def test_the_name_of_a_team_is_part_of_its_trials_and_not_of_their_randomness():
    configs = [replace(BASE, seed=seed) for seed in (1, 0, 2)]
    whole, pair, alone = (team_of(configs[:count], DATA.digest) for count in (3, 2, 1))
    assert [config.seed for _, config in whole.trials] == [0, 1, 2]
    assert team_of(configs[::-1], DATA.digest) == whole
    assert len({whole.id, pair.id, alone.id} | {i for t in (whole, pair, alone) for i, _ in t.trials}) == 8
    assert whole.identities[:2] == pair.identities and pair.identities[1:] == alone.identities
    assert alone.trials == ((alone.id, configs[0]),) and alone.identities == (alone.id,)


def prepared(folder, seeds):
    folder.mkdir()
    (folder / "mine.toml").write_text(TEXT)
    with Store(folder / "store", create=True) as store:
        register(store, load_experiment(folder / "mine.toml"), "digits", "cpu", seeds)
    return Job(str(folder / "store"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0)


def table(job):
    with Store(Path(job.store)) as store:
        return to_csv(store.rows("mine"))


def test_the_tables_of_both_routes_agree_to_rounding(tmp_path):
    jobs = [prepared(tmp_path / seeds, seeds) for seeds in ("together", "apart")]
    for job in jobs:
        work(job)
    together, apart = (list(csv.DictReader(io.StringIO(table(job)))) for job in jobs)
    assert len(together) == len(apart) == 8
    for one, other in zip(together, apart, strict=True):
        assert (one["trial"] == other["trial"]) == (one["update"] == "nlms")
        assert one["outcome"] == other["outcome"] == "finished"
        for name in METRICS[2:7]:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-9), name


def test_a_team_that_was_stopped_goes_on_to_the_same_table(tmp_path):
    whole, job = prepared(tmp_path / "whole", "together"), prepared(tmp_path / "stopped", "together")
    work(whole)
    for _ in range(20):
        asked = iter(range(1000))
        work(job, lambda own=asked: next(own) >= 7)
    work(job)
    assert table(job) == table(whole)
    assert list((tmp_path / "stopped" / "store" / "checkpoints").iterdir()) == []


def test_the_command_line_chooses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(TEXT)
    expected = prepared(tmp_path / "expected", "together")
    work(expected)
    words = ["experiment", "run", "mine.toml", "--store", "s", "--workers", "1", "--json"]
    assert affdiv.run([*words, "--seeds", "together"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["done"] == 8
    assert affdiv.run(["experiment", "export", "mine.toml", "--store", "s"]) == 0
    assert capsys.readouterr().out == table(expected)
    assert affdiv.run([*words, "--seeds", "some"]) == 2
    assert "--seeds 'some' is not known; choose one of auto, together, apart" in capsys.readouterr().err
