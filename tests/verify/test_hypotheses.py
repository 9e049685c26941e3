"""Verdicts from made-up trials whose truth is known, and the page and command that show them."""

import json
import re
import xml.dom.minidom

import numpy as np
import pytest

import affdiv
from verify.hypotheses import judge
from verify.report.experiments import render
from verify.statistics import Verdict
from verify.training.config import TrialConfig
from verify.training.store import Row

RATES = (0.01, 0.1, 1.0)
SEEDS = range(6)


def row(method, rate, seed, accuracy, batch=32, ratio=None):
    """A finished trial; validation favours the middle rate."""
    config = TrialConfig(method=method, learning_rate=rate, seed=seed, batch_size=batch)
    validation = 0.9 if rate == RATES[1] else 0.5
    point = {"step": 1, "train_loss": 0.1, "validation_loss": 0.2, "validation_accuracy": validation}
    spreads = [] if ratio is None else [{"minimum": 1.0, "maximum": ratio, "coefficient_of_variation": 0.1}]
    result = {"points": [point], "spreads": spreads, "diverged_at": None, "test_loss": 0.3, "test_accuracy": accuracy}
    name = f"{method}-{rate}-{seed}-{batch}".ljust(64, "0")
    return Row(name, config, "done", 1, 1, 0, None, result)


def trials(better=0.0, seeds=SEEDS, rates=RATES, slope=0.0, batches=(32,), ratio=None):
    noise = np.random.default_rng(1)
    rows = []
    for method in ("none", "affine-like"):
        for batch in batches:
            for seed in seeds:
                gain = better if method == "affine-like" else 0.0
                fall = slope * np.log2(batch) if method == "affine-like" else 0.0
                accuracy = 0.8 + gain + fall + 0.003 * seed + noise.normal(0, 0.002)
                corrected = ratio if method == "affine-like" else 5.0
                rows += [row(method, rate, seed, accuracy, batch, ratio and corrected) for rate in rates]
    return rows


def verdict(name, rows, word=""):
    (found,) = [f for f in judge(rows) if f.hypothesis == name and word in f.statement]
    return found


@pytest.mark.parametrize(
    ("better", "expected"), [(0.05, Verdict.SUPPORTED), (-0.05, Verdict.CONTRADICTED), (0.0, Verdict.INCONCLUSIVE)]
)
def test_a_true_difference_is_found_and_none_is_not(better, expected):
    found = verdict("H3", trials(better))
    assert found.verdict is expected
    assert found.effect.estimate == pytest.approx(better, abs=0.005)
    assert found.effect.n == len(SEEDS)
    assert len(found.trials) == 2 * len(SEEDS)
    assert all("-0.1-" in trial for trial in found.trials)  # the best rate's trials alone


def test_settings_of_one_seed_count_once():
    assert verdict("H3", trials(0.05, batches=(16, 32, 64))).effect.n == len(SEEDS)


def test_few_seeds_conclude_nothing():
    found = verdict("H3", trials(0.05, seeds=range(3)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "3 seeds, 5 are needed" in found.reason


def test_a_best_rate_at_the_edge_concludes_nothing():
    found = verdict("H3", trials(0.05, rates=RATES[1:]))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "edge" in found.reason


@pytest.mark.parametrize(
    ("slope", "expected"), [(-0.01, Verdict.SUPPORTED), (0.01, Verdict.CONTRADICTED), (0.0, Verdict.INCONCLUSIVE)]
)
def test_the_slope_by_batch_size_has_the_sign_that_it_has(slope, expected):
    found = verdict("H4", trials(slope=slope, batches=(16, 32, 64, 128)), "affine-like")
    assert found.verdict is expected
    assert found.effect.estimate == pytest.approx(slope, abs=0.002)


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, Verdict.SUPPORTED), (1.5, Verdict.CONTRADICTED)])
def test_an_uneven_self_factor_is_found(ratio, expected):
    found = verdict("H2", trials(ratio=ratio))
    assert found.verdict is expected
    assert "none 5" in found.reason


def test_what_was_not_tried_is_inconclusive_and_says_why():
    findings = judge(trials())
    assert {f.hypothesis for f in findings} == {f"H{k}" for k in range(1, 9)} - {"H4"}
    assert all(f.reason for f in findings if f.effect is None)
    assert [f.verdict for f in judge([]) if f.verdict is not Verdict.INCONCLUSIVE] == []


def test_every_number_of_the_page_leads_to_its_trials():
    rows = trials(0.05, batches=(16, 32), ratio=1.0)
    page = render({"made-up": ("seeds = [0]", rows)}, {"made-up": judge(rows)})
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
