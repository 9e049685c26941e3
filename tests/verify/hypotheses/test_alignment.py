"""H7: the effects of alignment alone and of the function alone, separated by crossing layers with update rules."""

import pytest

from tests.verify.hypotheses.made_up import trials
from verify.hypotheses import judge
from verify.hypotheses.alignment import CONTRASTS
from verify.statistics import Verdict


def crossed(gains, **lists):
    """Every layer with every rule; ``gains`` are the accuracies above 0.8 of the named cells."""
    chosen = {"method": ["none", "norm-like", "affine-like"], "update": ["sgd", "nlms", "foof"], **lists}
    return trials(lambda method, update, **_: 0.8 + gains.get((method, update), 0.0), **chosen)


def of(rows):
    return [f for f in judge(rows) if f.hypothesis == "H7"]


ALIGNED = {("none", "nlms"): 0.1, ("none", "foof"): 0.1, ("affine-like", "sgd"): 0.1, ("norm-like", "sgd"): 0.1}
FUNCTION = {("affine-like", "sgd"): 0.1, ("norm-like", "sgd"): 0.1}


@pytest.mark.parametrize(
    ("gains", "expected", "parts"),
    [
        (ALIGNED, Verdict.SUPPORTED, ["supported", "supported", "inconclusive", "inconclusive", "supported"]),
        (FUNCTION, Verdict.CONTRADICTED, ["inconclusive", "inconclusive", "supported", "supported", "supported"]),
        ({**ALIGNED, ("affine-like", "sgd"): 0.2}, Verdict.INCONCLUSIVE, None),
        ({}, Verdict.INCONCLUSIVE, ["inconclusive"] * 5),
    ],
)
def test_the_two_are_told_apart(gains, expected, parts):
    whole, *found = of(crossed(gains))
    assert whole.verdict is expected and not whole.detail
    assert len(found) == len(CONTRASTS) and all(f.detail for f in found)
    assert parts is None or [f.verdict.value for f in found] == parts


def test_without_nlms_nothing_is_said():
    (only,) = of(crossed(ALIGNED, update=["sgd", "foof"]))
    assert only.verdict is Verdict.INCONCLUSIVE and "no trials cross layers" in only.reason


def test_few_seeds_conclude_nothing():
    whole, *_ = of(crossed(ALIGNED, seeds=range(3)))
    assert whole.verdict is Verdict.INCONCLUSIVE and "2 judging seeds, 5 are needed" in whole.reason


def test_holm_is_over_the_family_of_comparisons():
    parts = of(crossed(ALIGNED))[1:]
    alone = of(crossed(ALIGNED, method=["none", "affine-like"], update=["sgd", "nlms"]))[1:]
    same = {f.statement: f for f in parts}
    assert len(alone) == 3
    assert all(f.effect.p <= same[f.statement].effect.p for f in alone)


def test_each_network_is_also_compared_alone():
    def accuracy(method, update, depth, **_):
        return 0.8 + 0.1 * (depth == 4 and (method, update) in ALIGNED)

    chosen = {"method": ["none", "norm-like", "affine-like"], "update": ["sgd", "nlms", "foof"]}
    _, *parts = of(trials(accuracy, **chosen, depth=[2, 4]))
    found = {f.statement: f.effect.estimate for f in parts if "none with NLMS against none with SGD" in f.statement}
    assert len(parts) == 3 * len(CONTRASTS) and all(f.detail for f in parts)
    for (statement, effect), expected in zip(sorted(found.items()), (0.05, 0.0, 0.1), strict=True):
        assert effect == pytest.approx(expected, abs=0.005), statement
    assert [statement.partition("SGD.")[2].split(",")[1:2] for statement in sorted(found)] == [
        [],
        [" depth 2"],
        [" depth 4"],
    ]
