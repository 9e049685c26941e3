"""Hypotheses declared in an experiment file: validated on reading, judged like H1 to H9."""

import csv
import json

import pytest

import affdiv
from derive.errors import UsageError
from tests.verify.hypotheses.made_up import JUDGING, trials
from verify.hypotheses import judge, judge_all
from verify.statistics import Verdict
from verify.training.experiment import load_experiment
from verify.training.export import COLUMNS
from verify.training.export import written as as_written

FILE = """
methods = ["none", "affine-like"]
learning_rates = [0.01, 0.1, 1.0]
seeds = [0, 1, 2, 3, 4, 5]
widths = [16, 64]
epochs = 1
"""
WIDE = """
[[hypotheses]]
name = "wide"
group = { method = "affine-like" }
against = { method = "none" }
metric = "test_accuracy"
direction = "higher"
margin = 0.01
"""


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def own(folder, **changed):
    lines = {"name": '"wide"', "group": '{ method = "affine-like" }', "against": '{ method = "none" }'}
    lines |= {"metric": '"test_accuracy"', "direction": '"higher"', **changed}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    return load_experiment(written(folder, f"{FILE}\n[[hypotheses]]\n{text}")).hypotheses


def table(gain, measure="accuracy"):
    def value(method, **_):
        return 0.8 + gain * (method == "affine-like")

    rows = {"method": ["none", "affine-like"], "width": [16, 64]}
    return trials(value, **rows) if measure == "accuracy" else trials(lambda **_: 0.8, loss=value, **rows)


@pytest.mark.parametrize(
    ("direction", "margin", "metric", "gain", "verdict"),
    [
        ("higher", 0.01, "accuracy", 0.03, Verdict.SUPPORTED),
        ("higher", 0.01, "accuracy", 0.0, Verdict.CONTRADICTED),
        ("higher", 0.01, "accuracy", 0.01, Verdict.INCONCLUSIVE),
        ("higher", -0.01, "accuracy", 0.0, Verdict.SUPPORTED),
        ("lower", 0.0, "loss", -0.03, Verdict.SUPPORTED),
        ("lower", 0.0, "loss", 0.03, Verdict.CONTRADICTED),
        ("lower", 0.0, "accuracy", -0.03, Verdict.SUPPORTED),
        ("higher", 0.0, "loss", 0.03, Verdict.SUPPORTED),
        ("same", 0.01, "accuracy", 0.0, Verdict.SUPPORTED),
        ("same", 0.01, "accuracy", 0.03, Verdict.CONTRADICTED),
        ("same", 0.01, "accuracy", -0.03, Verdict.CONTRADICTED),
    ],
)
def test_verdicts_follow_the_truth(tmp_path, direction, margin, metric, gain, verdict):
    declared = own(tmp_path, direction=f'"{direction}"', margin=margin, metric=f'"test_{metric}"')
    found = judge(table(gain, metric), declared)[-1]
    assert (found.hypothesis, found.verdict) == ("wide", verdict)
    assert found.effect.n == JUDGING and found.statement == declared[0].statement and found.criterion


def test_groups_may_be_told_apart_by_any_setting(tmp_path):
    (found,) = own(tmp_path, group='{ width = 64, method = "none" }', against='{ width = 16, method = "none" }')
    rows = trials(lambda width, **_: 0.8 + 0.02 * (width == 64), method=["none", "affine-like"], width=[16, 64])
    judged = judge(rows, [found])[-1]
    assert judged.verdict is Verdict.SUPPORTED and len(judged.trials) == 2 * JUDGING
    alone = judge([row for row in rows if row["width"] == 64], [found])[-1]
    assert alone.verdict is Verdict.INCONCLUSIVE and "no trial of one group has a partner" in alone.reason


def test_one_name_in_several_experiments_is_one_family(tmp_path):
    declared = own(tmp_path)
    alone = judge(table(0.03), declared)[-1].effect.p
    first, second = judge_all([table(0.03), table(0.029)], [declared, declared])
    assert first[-1].effect.p == pytest.approx(2 * alone) and second[-1].effect.p >= first[-1].effect.p


WRONG = {
    "unknown key": ({"metrics": '"test_loss"'}, "'metrics' is not known"),
    "no group": ({"group": ""}, "'group' is missing"),
    "a name of ours": ({"name": '"H3"'}, "'H3' is not a valid name"),
    "a name that is no name": ({"name": '"a b<script>"'}, "is not a valid name"),
    "an unknown metric": ({"metric": '"speed"'}, "the metric 'speed' is not known; choose one of test_accuracy"),
    "an unknown direction": ({"direction": '"up"'}, "the direction 'up' is not known"),
    "no room": ({"direction": '"same"'}, "leaves no range for 'same'"),
    "a margin that is none": ({"margin": "nan"}, "the margin nan is not a number"),
    "a statement that is none": ({"statement": "3"}, "the statement 3 is not text"),
    "a method without trials": ({"against": '{ method = "batch-norm" }'}, "no trial has method = 'batch-norm'"),
    "no setting": ({"group": "{ seed = 1 }"}, "'seed' is not a setting that distinguishes groups"),
    "an empty group": ({"group": "{}"}, "group is {}"),
    "other settings": ({"group": "{ width = 16 }"}, "must give the same settings with different values"),
    "one group twice": ({"group": '{ method = "none" }'}, "must give the same settings with different values"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_judged_is_refused_with_its_place(tmp_path, name):
    changed, words = WRONG[name]
    with pytest.raises(UsageError, match=r"mine\.toml.*hypotheses: number 1: ") as told:
        own(tmp_path, **changed)
    assert words in str(told.value)


@pytest.mark.parametrize("text", ["hypotheses = 3", 'hypotheses = ["a"]', "[hypotheses]\nname = 1"])
def test_what_is_no_list_of_tables_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match=r"write \[\[hypotheses\]\]"):
        load_experiment(written(tmp_path, f"{FILE}\n{text}"))


def test_a_name_stands_once(tmp_path):
    with pytest.raises(UsageError, match="number 2: the name 'wide' is used twice"):
        load_experiment(written(tmp_path, FILE + WIDE + WIDE))


def test_they_change_no_trial(tmp_path):
    plain = load_experiment(written(tmp_path, FILE))
    declaring = load_experiment(written(tmp_path, FILE + WIDE))
    assert plain.text == declaring.text and len(declaring.hypotheses) == 1


def test_plan_and_report_know_them(tmp_path, capsys):
    path = written(tmp_path, FILE + WIDE)
    assert affdiv.run(["experiment", "plan", str(path), "--json"]) == 0
    assert "wide" in {one["hypothesis"] for one in json.loads(capsys.readouterr().out)["hypotheses"]}
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: as_written(value) for name, value in line.items()} for line in table(0.03))
    words = ["report", "--table", str(tmp_path / "mine.csv"), "-o", str(tmp_path / "page.html")]
    assert affdiv.run([*words, "--experiment", str(path)]) == 0
    assert "  wide supported" in capsys.readouterr().out
    assert "Declared in the experiment" in (tmp_path / "page.html").read_text()
    other = path.rename(tmp_path / "other.toml")
    assert affdiv.run([*words, "--experiment", str(other)]) == 2
    assert "there are no trials of 'other', only of mine" in capsys.readouterr().err
    assert affdiv.run([*words, "--experiment", "smoke"]) == 2 and "no trials of 'smoke'" in capsys.readouterr().err
    assert affdiv.run([*words[:3], "-o", str(tmp_path / "new" / "page.html"), "--experiment", "nothing"]) == 2
    assert "no bundled experiment is named 'nothing'" in capsys.readouterr().err and not (tmp_path / "new").exists()
