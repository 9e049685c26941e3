"""H5: members of the family with and without scale invariance, distinguished by derivation."""

import pytest

from tests.verify.hypotheses.made_up import BEST, trials
from verify.hypotheses import judge
from verify.statistics import Verdict

BOUND, FREE, BETWEEN = "pi/4", "atan(r)", "(pi/4 + atan(r))/2"


def of(rows):
    return [f for f in judge(rows) if f.hypothesis == "H5"]


def family(gains, **lists):
    rates = {"best": lambda angle, **_: BEST * (1 + 0.1 * gains.get(angle, 0.0))}  # validation follows the gain
    return trials(
        lambda angle, **_: 0.8 + gains.get(angle, 0.0),
        **{"method": ["angle"], "angle": [BOUND, FREE, BETWEEN], **lists},
        **({} if not gains else rates),
    )


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.05, Verdict.SUPPORTED), (0.0, Verdict.SUPPORTED), (-0.05, Verdict.CONTRADICTED)]
)
def test_a_free_member_that_is_on_par_shows_that_the_property_is_not_needed(gain, expected):
    whole, other = of(family({FREE: gain, BETWEEN: gain}))
    assert (whole.verdict, other.verdict) == (expected, expected)
    assert not whole.detail and other.detail
    assert whole.effect.estimate == pytest.approx(gain, abs=0.002)
    assert "t = pi/4, which has it" in whole.statement


def test_members_of_one_kind_alone_say_nothing():
    for angles in ([FREE, BETWEEN], [BOUND]):
        (only,) = of(family({}, angle=angles))
        assert only.verdict is Verdict.INCONCLUSIVE and "with and without scale invariance" in only.reason
