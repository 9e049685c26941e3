"""Verdicts from artificial trials, and the page and the command that show them."""

import json
import re
import xml.dom.minidom
from pathlib import Path

import pytest

import affdiv
from tests.verify.hypotheses.made_up import RATES, row, trials
from verify.hypotheses import judge
from verify.report.experiments import render
from verify.statistics import Verdict
from verify.training.export import line
from verify.training.sources import Source


def of(name, rows):
    return next(f for f in judge(rows) if f.hypothesis == name)


def better(gain=0.05, **lists):
    lists = {"method": ["none", "affine-like"], **lists}
    return trials(lambda method, **_: 0.8 + gain * (method == "affine-like"), **lists)


def with_ratios(ours, theirs=5.0):
    return [line(row(method=m, ratio=r)) for m, r in (("affine-like", ours), ("none", theirs))]


def test_settings_of_one_seed_count_once():
    assert of("H3", better(batch_size=(16, 32, 64))).effect.n == 5


def test_few_seeds_conclude_nothing():
    found = of("H3", better(seeds=range(3)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "2 judging seeds, 5 are needed" in found.reason


def test_a_best_rate_at_the_edge_concludes_nothing():
    found = of("H3", better(rates=RATES[1:]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "edge" in found.reason


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, Verdict.SUPPORTED), (1.5, Verdict.CONTRADICTED)])
def test_an_uneven_self_factor_is_found(ratio, expected):
    found = of("H2", with_ratios(ratio))
    assert found.verdict is expected
    assert "none 5" in found.notes


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((2e-14, 1e-7, 1e-5), Verdict.SUPPORTED),
        ((2e-12, 1e-7, 1e-5), Verdict.CONTRADICTED),
        ((2e-14, 2e-5, 1e-5), Verdict.CONTRADICTED),
    ],
)
def test_a_step_that_is_not_the_derived_one_is_found(errors, expected):
    rows = [
        line(row(method=m, errors=e, dtype="float32")) for m, e in (("norm-like", errors), ("none", (0.5, 0.5, 1e-5)))
    ]
    found = of("H1", rows)
    assert found.verdict is expected
    assert "float32; elsewhere: none 0.5" in found.notes and found.trials == (rows[0]["trial"],)
    assert of("H1", rows[1:]).verdict is Verdict.INCONCLUSIVE


def test_what_was_not_tried_is_inconclusive_and_says_why():
    findings = judge(better())
    assert {f.hypothesis for f in findings} == {f"H{k}" for k in range(1, 10)}
    assert all(f.reason for f in findings if f.effect is None)
    assert [f.verdict for f in judge([]) if f.verdict is not Verdict.INCONCLUSIVE] == []


def test_every_number_of_the_page_leads_to_its_trials():
    rows = better(batch_size=(16, 32))
    page = render([Source("made-up", Path("made-up.csv"), rows, "seeds = [0]")], {"made-up": judge(rows)})
    xml.dom.minidom.parseString(page.split("<main", 1)[1].join(("<main", "")).split("</main>")[0] + "</main>")
    links = set(re.findall(r'href="#(t-[^"]+)"', page))
    assert links
    assert links <= set(re.findall(r'id="(t-[^"]+)"', page))
    assert "supported" in page
    assert page.count("<svg viewBox") + page.count("<figure>") > 3
    assert "http://" not in page.replace("http://www.w3.org", "")


EXPERIMENT = """
data = "digits"
methods = ["none", "affine-like"]
updates = ["sgd"]
learning_rates = [0.1]
batch_sizes = [64]
seeds = [0]
model = "mlp"
widths = [4]
depths = [1]
activation = "tanh"
steps = 2
"""


def test_the_command_judges_a_real_store(tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(EXPERIMENT)
    store = str(tmp_path / "store")
    assert affdiv.run(["experiment", "run", str(tmp_path / "tiny.toml"), "--store", store, "--workers", "1"]) == 0
    capsys.readouterr()
    page = tmp_path / "new" / "report.html"
    assert affdiv.run(["report", "--store", store, "-o", str(page), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["schema"] == "affdiv.report/1"
    assert {f["verdict"] for f in printed["experiments"]["tiny"]} == {"inconclusive"}
    assert "tiny" in page.read_text()
    assert affdiv.run(["report", "--store", store, "-o", str(page)]) == 0
    assert "H3 inconclusive" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["report.html", "/proc/nowhere/report.html"])
def test_a_store_that_is_not_there_is_named(tmp_path, capsys, output):
    assert affdiv.run(["report", "--store", str(tmp_path / "none"), "-o", output]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.out == ""
