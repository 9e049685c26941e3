"""H4: slopes on the batch size in three readings of the same trials, with equal epochs or equal steps."""

import math

import pytest

from tests.verify.hypotheses.made_up import BEST, JUDGING, trials
from verify.hypotheses import judge
from verify.hypotheses.batches import FLAT
from verify.statistics import Verdict

SIZES = (16, 32, 64, 128)
WIDE = (0.01, 0.1, 0.2, 0.4, 0.8, 2.0)


def found(rows, *words):
    (one,) = [f for f in judge(rows) if f.hypothesis == "H4" and all(word in f.statement for word in words)]
    return one


def sloping(slope):
    return lambda batch_size=32, **_: 0.8 + slope * math.log2(batch_size)


@pytest.mark.parametrize(
    ("method", "slope", "expected"),
    [
        ("affine-like", -0.01, Verdict.SUPPORTED),
        ("affine-like", 0.01, Verdict.CONTRADICTED),
        ("affine-like", 0.0, Verdict.INCONCLUSIVE),
        ("none", 0.01, Verdict.SUPPORTED),
        ("none", -0.01, Verdict.CONTRADICTED),
        ("layer-norm", 0.0, Verdict.SUPPORTED),
        ("layer-norm", 3 * FLAT, Verdict.CONTRADICTED),
    ],
)
def test_the_slope_has_the_sign_that_it_has(method, slope, expected):
    finding = found(trials(sloping(slope), method=[method], batch_size=SIZES), "the best rate")
    assert finding.verdict is expected
    assert finding.effect.estimate == pytest.approx(slope, abs=1e-3)
    assert finding.effect.n == JUDGING
    assert "log2(batch size)" in finding.criterion


def test_three_readings_see_three_slopes_in_the_same_trials():
    """The best rate grows with the batch; a fixed rate loses more and more, a linear one nothing."""

    def accuracy(batch_size, rate, **_):
        return 0.9 - 0.01 * abs(math.log2(rate / (0.1 * batch_size / 16)))

    def best(batch_size, **_):
        return 0.1 * batch_size / 16

    rows = trials(accuracy, rates=WIDE, best=best, method=["none"], batch_size=SIZES)
    slopes = {word: found(rows, word).effect.estimate for word in ("the best rate", "the rate that", "scaled with")}
    assert slopes == pytest.approx({"the best rate": 0.0, "the rate that": -0.01, "scaled with": 0.0}, abs=1e-3)
    assert "rates used (batch: rate) 16: 0.1, 32: 0.2, 64: 0.4, 128: 0.8" in found(rows, "scaled with").notes
    assert "16: 0.1, 32: 0.1, 64: 0.1, 128: 0.1" in found(rows, "the rate that").notes
    assert [f.detail for f in judge(rows) if f.hypothesis == "H4"] == [False, True, True]


def test_a_linear_rate_beyond_the_grid_is_left_out_and_said_to_be():
    rows = trials(sloping(0.0), rates=(0.05, 0.1, 0.2, 0.3), method=["none"], batch_size=(16, 32, 64, 256))
    finding = found(rows, "scaled with")
    assert "32: 0.2, 64: 0.3" in finding.notes, "64 asks for 0.4, less than half a step beyond the grid"
    assert "left out, the rate lies beyond the grid: batch size 256" in finding.notes


@pytest.mark.parametrize(
    ("length", "words"), [({"epochs": [3]}, "at equal epochs"), ({"steps": [9]}, "at equal steps")]
)
def test_equal_epochs_and_equal_steps_are_told_apart(length, words):
    lists = {"epochs": [None], "steps": [None], **length}
    rows = trials(sloping(0.01), method=["none"], batch_size=SIZES, **lists)
    assert {words in f.statement for f in judge(rows) if f.hypothesis == "H4"} == {True}


def test_a_best_rate_at_the_edge_decides_nothing_but_one_that_is_not_used_does_not_matter():
    rows = trials(
        sloping(0.01),
        best=lambda batch_size, **_: 1.0 if batch_size == 128 else BEST,
        method=["none"],
        batch_size=SIZES,
    )
    at_best = found(rows, "the best rate")
    assert at_best.verdict is Verdict.INCONCLUSIVE and "at batch size 128 is at the edge" in at_best.reason
    assert found(rows, "the rate that").verdict is Verdict.SUPPORTED


def test_diverged_trials_are_failures_and_not_left_out():
    rows = trials(sloping(0.01), method=["none"], batch_size=SIZES)
    for one in rows:
        if one["batch_size"] == 128 and one["seed"] > 2 and one["learning_rate"] == BEST:
            one |= {"diverged_at": 3, "outcome": "diverged", "test_accuracy": None}
    finding = found(rows, "the rate that")
    assert finding.effect.n == JUDGING and finding.effect.estimate < 0
    assert "counted as failures, for they diverged: 3 of 20 runs of none" in finding.notes


def test_one_batch_size_has_no_slope():
    (finding,) = [f for f in judge(trials(sloping(0.1), method=["none"])) if f.hypothesis == "H4"]
    assert finding.verdict is Verdict.INCONCLUSIVE and "differ in their batch size" in finding.reason
