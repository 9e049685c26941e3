"""H9 and the response surface, on leads constructed by a known law in the rate or in the step."""

import csv
import io
import math
import re
import xml.dom.minidom

import pytest

import affdiv
from tests.verify.hypotheses.made_up import RATES, SEEDS, trials
from verify.hypotheses import judge, judge_all
from verify.hypotheses.chosen import at_best_rates
from verify.hypotheses.surface import lead_at_rate, lead_at_step, scale, surfaces
from verify.report.palette import pens_for
from verify.report.surface_plots import surface_pictures, surface_sheet
from verify.statistics import Verdict
from verify.training.config import WIDE_KAPPA
from verify.training.export import COLUMNS
from verify.training.sweep import nominal_kappa

METHODS = ["none", "rms-norm", "affine-like", WIDE_KAPPA]
WIDTH = 31
WIDE = (0.001, 0.01, 0.1, 1.0, 10.0)


def of(rows, word=""):
    return [f for f in judge(rows) if f.hypothesis == "H9" and word in f.statement]


def by_step(power):
    """An accuracy that depends on the effective rate ``rate kappa^power`` alone."""

    def accuracy(method, rate, width=WIDTH, **_):
        return 0.5 + 0.02 * math.log10(rate * nominal_kappa(method, width) ** power)

    return accuracy


def surface_of(rows, ours="affine-like", rival="none"):
    (found,) = [s for s in surfaces(at_best_rates(rows)) if (s.ours, s.rival) == (ours, rival)]
    return found


@pytest.mark.parametrize(("update", "power"), [("sgd", 1.0), ("momentum", 1.0), ("adam", 0.5), ("adamw", 0.5)])
def test_a_lead_that_is_one_of_the_rate_is_gone_at_equal_steps(update, power):
    rows = trials(by_step(power), rates=WIDE, method=METHODS, width=[WIDTH], update=[update])
    lag = -0.02 * power * math.log10(WIDTH + 1)
    found = surface_of(rows)
    assert [place for place, _ in found.by_rate] == list(WIDE)
    assert all(effect.estimate == pytest.approx(lag, abs=0.002) for _, effect in found.by_rate)
    assert all(
        effect.estimate == pytest.approx(0.0, abs=0.002) and effect.n == len(SEEDS) for _, effect in found.by_step
    )
    same = surface_of(rows, WIDE_KAPPA)
    assert all(effect.estimate == pytest.approx(0.0, abs=0.002) for _, effect in same.by_rate)


def test_places_of_equal_steps_are_those_of_both_grids():
    """At kappa = 1 and rates 0.001 to 10 the effective rate of a plain layer of 31 inputs is 0.032 to 320."""
    rows = trials(by_step(1.0), rates=WIDE, method=METHODS, width=[WIDTH])
    assert [place for place, _ in surface_of(rows).by_step] == [0.1, 1.0, 10.0]


def test_a_lead_of_alignment_stays():
    def accuracy(method, **told):
        return by_step(1.0)(method, **told) + 0.03 * (method == "affine-like")

    rows = trials(accuracy, rates=WIDE, method=METHODS, width=[WIDTH])
    assert all(effect.estimate == pytest.approx(0.03, abs=0.002) for _, effect in surface_of(rows).by_step)


def test_between_two_rates_the_other_method_is_interpolated_in_the_logarithm():
    rows = trials(lambda method, rate, **_: 0.5 + 0.1 * math.log10(rate), rates=(0.01, 1.0), method=METHODS)
    ours, theirs = (next(c for c in at_best_rates(rows) if c.settings["method"] == m) for m in ("affine-like", "none"))
    shift = math.log10(scale(theirs) / scale(ours))
    assert lead_at_step([(ours, theirs)], 1.0).estimate == pytest.approx(0.1 * shift, abs=0.002)
    assert lead_at_step([(ours, theirs)], 0.01) is None
    assert lead_at_rate([(ours, theirs)], 0.1) is None


def test_a_verdict_for_each_rate_rule_method_and_rival_with_all_seeds():
    def accuracy(method, rate, **_):
        return 0.8 + (method in ("affine-like", WIDE_KAPPA)) * {0.01: -0.05, 0.1: 0.05, 1.0: 0.0}[rate]

    rows = trials(accuracy, method=METHODS, update=["sgd", "adam"])
    found = of(rows)
    assert len(found) == 2 * len(RATES) * 2 * 2
    assert all(f.effect.n == len(SEEDS) and len(f.trials) == 2 * len(SEEDS) for f in found)
    for rate, verdict in ((0.01, Verdict.CONTRADICTED), (0.1, Verdict.SUPPORTED), (1, Verdict.SUPPORTED)):
        assert {f.verdict for f in found if f"the rate {rate:g} of" in f.statement} == {verdict}


def test_a_run_that_diverged_is_a_failure_and_not_left_out():
    rows = trials(lambda **_: 0.8, method=METHODS)
    lost = {"outcome": "diverged", "diverged_at": 3, "test_accuracy": None, "test_loss": None}
    rows = [{**t, **lost} if t["method"] == "none" and t["learning_rate"] == 1.0 else t for t in rows]
    (found,) = of(
        rows, "the rate 1 of sgd for all methods, affine-like layers reach at least the test accuracy of none"
    )
    assert found.verdict is Verdict.SUPPORTED and found.effect.estimate == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("methods", [METHODS[:3], [*METHODS[:2], WIDE_KAPPA]])
def test_it_is_not_asked_where_one_kappa_is_missing(methods):
    (found,) = of(trials(lambda **_: 0.8, method=methods))
    assert not found.asked and "at both kappas" in found.reason


def test_it_is_asked_at_the_rates_that_all_methods_have():
    rows = trials(lambda **_: 0.8, method=METHODS)
    some = of([t for t in rows if t["method"] != "none" or t["learning_rate"] < 1])
    assert some and not [f for f in some if "the rate 1 of" in f.statement]
    (found,) = of([t for t in rows if (t["method"] == "none") == (t["learning_rate"] < 1)])
    assert not found.asked


def test_pictures_stand_in_pairs_with_every_rival():
    rows = trials(by_step(1.0), rates=WIDE, method=METHODS, width=[WIDTH], update=["sgd"])
    found = surfaces(at_best_rates(rows))
    pictures = surface_pictures("made-up", found, pens_for(["none", "rms-norm"]))
    assert len(pictures) == 2 * 2
    assert [("equal rates" in p.caption, "equal effective rates" in p.caption) for p in pictures] == 2 * [
        (True, False), (False, True)
    ]  # fmt: skip
    assert all("var(--pen-none)" in p.svg and "var(--pen-rms-norm)" in p.svg for p in pictures)
    ids = [i for p in pictures for i in re.findall(r'\bid="([^"]+)"', p.svg)]
    assert len(ids) == len(set(ids))


def test_the_sheet_holds_every_panel_in_colours_of_its_own():
    rows = trials(by_step(1.0), rates=WIDE, method=METHODS, width=[WIDTH], update=["sgd"])
    sheet = surface_sheet(surfaces(at_best_rates(rows)))
    document = xml.dom.minidom.parseString(sheet)
    words = [node.firstChild.data for node in document.getElementsByTagName("text")]
    assert words.count("lead in test accuracy") == 4 and "var(--" not in sheet
    assert {"none", "rms-norm", "affine-like, sgd, width 31, depth 2"} <= set(words)


def test_the_command_writes_the_sheet_and_refuses_trials_without_one(tmp_path, capsys):
    rows = trials(by_step(1.0), rates=WIDE, seeds=range(2), method=METHODS, width=[WIDTH])
    for name, own in (("mine.csv", rows), ("one.csv", [t for t in rows if t["method"] == "none"])):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(own)
        (tmp_path / name).write_text(text.getvalue())
    command = ["report", "-o", str(tmp_path / "page.html"), "--surface", str(tmp_path / "new" / "sheet.svg"), "--table"]
    assert affdiv.run([*command, str(tmp_path / "mine.csv")]) == 0
    assert (tmp_path / "new" / "sheet.svg").read_text().startswith("<svg")
    assert affdiv.run([*command, str(tmp_path / "one.csv")]) == 2
    assert "no trials compare affine-like with another method at two rates" in capsys.readouterr().err


def test_what_two_experiments_state_of_the_same_trials_is_one_finding():
    """As in a sweep continued in a second experiment: counted twice, it would get twice Holm's correction."""
    rows = trials(by_step(1.0), rates=WIDE, method=METHODS, width=[WIDTH])
    first, second = judge_all([rows, rows])
    assert first == judge(rows) and any(f.trials for f in first)
    assert not any(f.trials for f in second)
