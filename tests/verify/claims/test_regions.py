"""The table of where a claim holds, and the smallest detectable effect, against the power of the test."""

from pathlib import Path

import numpy as np
import pytest

from tests.verify.hypotheses.made_up import SEEDS, trials
from verify.claims.ledger import ledger
from verify.claims.markdown import markdown
from verify.claims.regions import POWER, region_lines, seen
from verify.statistics import paired_difference, power
from verify.training.config import WIDE_KAPPA
from verify.training.sources import Source


@pytest.fixture(scope="module")
def entry():
    """Claim C5 with affine-like ahead by 0.05 at the rate 0.1, behind by 0.05 at 0.01, and on par at 1."""
    gains = {0.01: -0.05, 0.1: 0.05, 1.0: 0.0}
    rows = trials(
        lambda method, rate, **_: 0.8 + gains[rate] * method.startswith("affine-like"),
        method=["none", "rms-norm", "affine-like", WIDE_KAPPA],
    )
    return next(e for e in ledger([Source("made-up", Path("made-up.csv"), rows)], {}) if e.claim.id == "C5")


def test_each_place_has_a_line_with_the_lead_over_each_rival(entry):
    lines = [line for line in region_lines(entry.evidence) if line.startswith("| sgd")]
    assert len(lines) == 3 * 2
    marks = {line.split(" | ")[0].removeprefix("| "): [cell[-1] for cell in line.split(" | ")[1:]] for line in lines}
    for ours in ("affine-like", WIDE_KAPPA):
        found = {rate: line for rate in ("0.01", "0.1", "1") for line in [marks[f"sgd, rate {rate}, {ours}"]]}
        assert [found[rate][0] for rate in ("0.01", "0.1", "1")] == ["✗", "✓", "✓"]


def test_the_summary_counts_the_statements(entry):
    line = next(line for line in region_lines(entry.evidence) if line.startswith("* **H9**"))
    assert line.startswith("* **H9**: 12 statements: 8 supported, 4 contradicted, 0 inconclusive.")
    assert "could have been seen" in line and entry.tested == "mixed"


def test_the_page_shows_the_map_in_place_of_its_statements(entry):
    page = markdown([entry], Path("."))
    assert "| where | none | rms-norm |" in page and "At the rate 0.1 of sgd" not in page


@pytest.mark.parametrize("family", [1, 40])
def test_what_could_have_been_seen_is_found_with_the_power(family):
    """The standard deviation of the differences, from which the interval was computed, gives the power back."""
    differences = np.random.default_rng(0).normal(0.01, 0.02, len(SEEDS))
    effect = paired_difference(list(differences), [0.0] * len(SEEDS))
    smallest = seen(effect, family)
    assert power(smallest, float(differences.std(ddof=1)), len(SEEDS), family) == pytest.approx(POWER, abs=1e-6)
