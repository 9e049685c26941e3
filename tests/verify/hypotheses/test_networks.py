"""H3, H6, H8: corrected layers against others in each kind of network; and growth with size."""

import math

import pytest

from tests.verify.hypotheses.made_up import JUDGING, as_model, trials
from verify.hypotheses import judge
from verify.statistics import Verdict


def of(rows, hypothesis, word="", detail=False):
    return [f for f in judge(rows) if f.hypothesis == hypothesis and word in f.statement and f.detail == detail]


def better(ours, gain, **lists):
    methods = ["none", "layer-norm", ours]
    return trials(lambda method, **_: 0.8 + gain * (method == ours), method=methods, **lists)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        (0.05, Verdict.SUPPORTED),
        (0.0, Verdict.SUPPORTED),
        (-0.05, Verdict.CONTRADICTED),
        (-0.005, Verdict.INCONCLUSIVE),
    ],
)
def test_a_true_difference_is_found_and_none_is_not(gain, expected):
    rows = better("affine-like", gain)
    found = of(rows, "H3")
    assert [f.verdict for f in found] == [expected, expected]
    assert all(f.effect.estimate == pytest.approx(gain, abs=0.002) and f.effect.n == JUDGING for f in found)
    chosen = {t["trial"] for t in rows if t["learning_rate"] == 0.1}
    assert all(len(f.trials) == 2 * JUDGING and set(f.trials) <= chosen for f in found)


def test_each_network_is_also_judged_alone():
    rows = trials(
        lambda method, width, **_: 0.8 + (method == "affine-like") * (0.02 if width == 16 else -0.02),
        method=["none", "affine-like"],
        width=[16, 64],
    )
    (pooled,) = of(rows, "H3")
    assert pooled.effect.estimate == pytest.approx(0.0, abs=0.002) and pooled.verdict is Verdict.SUPPORTED
    alone = {f.statement: f.verdict for f in of(rows, "H3", "width", detail=True) if "grows" not in f.statement}
    assert [v.value for v in alone.values()] == ["supported", "contradicted"]


@pytest.mark.parametrize(("model", "hypothesis"), [("mlp", "H3"), ("cnn", "H6"), ("transformer", "H8")])
def test_a_network_is_evidence_for_its_own_hypothesis_alone(model, hypothesis):
    rows = as_model(model, better("affine-like", 0.05))
    if model == "cnn":
        rows = [{**t, "method": "patch-norm"} if t["method"] == "affine-like" else t for t in rows]
    answered = {f.hypothesis for f in judge(rows) if f.effect is not None}
    assert answered == {hypothesis}


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (0.0, Verdict.SUPPORTED),
        (-0.05, Verdict.CONTRADICTED),
        (0.05, Verdict.CONTRADICTED),
        (-0.005, Verdict.INCONCLUSIVE),
    ],
)
def test_on_par_means_within_the_margin_on_both_sides(gap, expected):
    rows = as_model("cnn", better("affine-like", gap))
    rows = [{**t, "method": "patch-norm"} if t["method"] == "affine-like" else t for t in rows]
    assert [f.verdict for f in of(rows, "H6")] == [expected, expected]


@pytest.mark.parametrize(("gap", "expected"), [(0.1, Verdict.CONTRADICTED), (-0.1, Verdict.SUPPORTED)])
def test_a_transformer_is_judged_by_its_loss_of_which_less_is_better(gap, expected):
    rows = trials(
        lambda **_: 0.5, loss=lambda method, **_: 1.0 + gap * (method != "none"), method=["none", "affine-like"]
    )
    (found,) = of(as_model("transformer", rows), "H8")
    assert found.verdict is expected
    assert found.effect.estimate == pytest.approx(-gap, abs=0.002)
    assert found.measure == "test loss, how much lower"


@pytest.mark.parametrize(("grows", "expected"), [(0.01, "supported"), (-0.01, "contradicted"), (0.0, "inconclusive")])
@pytest.mark.parametrize("size", ["width", "depth"])
def test_a_lead_that_grows_with_the_size_is_found(size, grows, expected):
    def accuracy(method, **settings):
        return 0.5 + (method == "affine-like") * (0.02 + grows * math.log2(settings[size]))

    rows = trials(accuracy, method=["none", "affine-like"], width=[16, 64, 256], depth=[2, 4])
    (found,) = of(rows, "H3", f"grows with the {size}", detail=True)
    assert found.verdict.value == expected
    assert found.effect.estimate == pytest.approx(grows, abs=1e-3)


def test_other_update_rules_are_not_mixed_in():
    rows = better("affine-like", 0.05, update=["sgd", "adam"])
    assert all(len(f.trials) == 2 * JUDGING for f in of(rows, "H3"))


def test_a_method_without_a_choice_of_rates_is_not_at_its_best_one():
    """An incomplete table: two methods have one rate so far, a third its whole grid."""
    rows = [t for t in better("affine-like", 0.05) if t["method"] == "none" or t["learning_rate"] == 0.1]
    (found,) = of(rows, "H3", "layer-norm")
    assert found.verdict is Verdict.INCONCLUSIVE and "affine-like has one rate" in found.reason
    rows = [t for t in rows if t["learning_rate"] == 0.1]
    assert of(rows, "H3", "layer-norm")[0].verdict is Verdict.SUPPORTED
