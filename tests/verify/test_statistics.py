"""Intervals and probabilities against SciPy and by other routes, and by how often they cover the truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from verify.statistics import LEAST_FOR_BOOTSTRAP, Effect, Verdict, holm, paired_difference, slope, slope_within

finite = st.floats(-1e3, 1e3).filter(lambda v: v == 0 or abs(v) > 1e-6)


def sample(n, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(0.3, 1.0, n), generator.normal(0.0, 2.0, n)


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_paired_difference_is_that_of_the_paired_test(n, confidence):
    first, second = sample(n)
    found, expected = paired_difference(first, second, confidence), stats.ttest_rel(first, second)
    interval = expected.confidence_interval(confidence)
    assert found.estimate == pytest.approx(np.mean(first - second))
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, expected.pvalue))
    assert found.n == n


def test_a_bootstrap_comes_near_the_exact_interval_where_that_holds():
    first, second = sample(400)
    exact, found = paired_difference(first, second), paired_difference(first, second, method="bootstrap")
    width = exact.high - exact.low
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.1 * width)
    assert found.p == pytest.approx(exact.p, abs=0.03)
    assert found == paired_difference(first, second, method="bootstrap")
    assert found != paired_difference(first, second, method="bootstrap", seed=1)


@pytest.mark.parametrize("n", [3, 12])
def test_a_slope_is_that_of_ordinary_least_squares(n):
    x, y = sample(n, seed=n)
    design = np.stack([np.ones(n), x], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    line = inverse @ design.T @ y
    error = math.sqrt(((y - design @ line) ** 2).sum() / (n - 2) * inverse[1, 1])
    student = stats.t(n - 2, loc=line[1], scale=error)
    found = slope(x, y)
    assert found.estimate == pytest.approx(line[1])
    assert (found.low, found.high) == pytest.approx(student.interval(0.95))
    assert found.p == pytest.approx(2 * min(student.cdf(0), student.sf(0)))


def test_what_a_seed_adds_does_not_enter_a_slope_within_groups():
    batches = [5.0, 6.0, 7.0, 8.0]
    groups = [[[(b, offset - 0.5 * b) for b in batches]] for offset in (0.0, 40.0, -7.0)]
    found = slope_within(groups)
    assert (found.estimate, found.low, found.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert found.n == 3


def test_the_lines_of_a_group_count_once():
    def line(slope, offset):
        return [(0.0, offset), (1.0, offset + slope), (2.0, offset + 2 * slope)]

    found = slope_within([[line(1.0, 5.0), line(3.0, -5.0)], [line(2.0, 0.0)]])
    assert (found.estimate, found.low, found.high, found.n) == pytest.approx((2.0, 2.0, 2.0, 2))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(probabilities):
    """Marcus, Peritz and Gabriel 1976: a statement holds if Bonferroni's test rejects every set that it belongs to."""
    n = len(probabilities)
    sets = [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
    bonferroni = {s: min(1.0, len(s) * min(probabilities[i] for i in s)) for s in sets}
    assert holm(probabilities) == pytest.approx([max(bonferroni[s] for s in sets if i in s) for i in range(n)])


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


@given(st.lists(finite, min_size=2, max_size=20, unique=True), finite)
def test_the_probability_against_a_margin_is_that_of_the_t_test(values, least):
    effect = paired_difference(values, [0.0] * len(values))
    assume(effect.high - effect.low > 1e-6 * (abs(effect.estimate) + abs(least)))
    assert effect.against(0.0) == pytest.approx(effect.p, abs=1e-9)
    assert effect.against(least) == pytest.approx(stats.ttest_1samp(values, least).pvalue, rel=1e-6, abs=1e-9)


def test_an_estimate_without_spread_differs_for_sure():
    assert paired_difference([0.5, 0.5], [0.0, 0.0]).against(0.0) == 0.0
    assert paired_difference([0.5, 0.5], [0.0, 0.0]).against(0.5) == 1.0


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=20))
def test_exchanging_the_methods_turns_the_sign(pairs):
    first, second = zip(*pairs, strict=True)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert (other.estimate, other.low, other.high) == pytest.approx((-one.estimate, -one.high, -one.low))
    assert one.low <= one.estimate <= one.high


@pytest.mark.parametrize(
    ("low", "high", "least", "verdict"),
    [
        (0.1, 0.3, 0.0, Verdict.SUPPORTED),
        (0.1, 0.3, 0.2, Verdict.INCONCLUSIVE),
        (-0.3, -0.1, 0.0, Verdict.CONTRADICTED),
        (-0.1, 0.1, 0.0, Verdict.INCONCLUSIVE),
        (0.0, 0.1, 0.0, Verdict.INCONCLUSIVE),
    ],
)
def test_a_verdict_asks_for_the_whole_interval(low, high, least, verdict):
    assert Effect((low + high) / 2, low, high, 0.5, 5).verdict(least) is verdict


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paired_difference([1.0], [2.0]), "at least two"),
        (lambda: paired_difference([1.0, 2.0], [2.0]), "first has 2 numbers and second 1"),
        (lambda: paired_difference([1.0, math.nan], [2.0, 1.0]), "diverged"),
        (lambda: paired_difference([1.0, 2.0], [2.0, 1.0], method="z"), "'z'"),
        (lambda: paired_difference([1.0, 2.0], [2.0, 1.0], method="bootstrap"), f"below {LEAST_FOR_BOOTSTRAP}"),
        (lambda: slope([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), "two different values"),
        (lambda: slope([1.0, 2.0], [1.0, 2.0]), "at least three"),
        (lambda: slope_within([[[(1.0, 1.0), (1.0, 2.0)]]]), "no slope"),
        (lambda: holm([0.5, 1.5]), "between 0 and 1"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_equal_runs_differ_by_nothing():
    assert paired_difference([1.0, 1.0], [1.0, 1.0]) == Effect(0.0, 0.0, 0.0, 1.0, 2)
    same = [0.5] * LEAST_FOR_BOOTSTRAP
    assert paired_difference(same, same, method="bootstrap").p == 1.0


def coverage(draws, make, truth):
    """The share of draws whose interval holds the truth."""
    found = (make(np.random.default_rng(seed)) for seed in range(draws))
    return sum(effect.low <= truth <= effect.high for effect in found) / draws


def of_pairs(n, method="t"):
    """A true difference of 0.3, with a part that both methods of a pair share."""

    def make(generator):
        shared = generator.normal(0, 3.0, n)
        first, second = shared + generator.normal(0.3, 1.0, n), shared + generator.normal(0.0, 1.0, n)
        return paired_difference(first, second, method=method)

    return make


def of_slopes(generator):
    """A true slope of -0.02 a doubling of the batch, with an offset a seed."""
    batches = np.arange(5.0, 11.0)
    ups = [generator.normal(0, 1) - 0.02 * batches + generator.normal(0, 0.05, 6) for _ in range(5)]
    return slope_within([[list(zip(batches, up, strict=True))] for up in ups])


@pytest.mark.parametrize(("make", "truth"), [(of_pairs(5), 0.3), (of_pairs(20), 0.3), (of_slopes, -0.02)])
def test_an_interval_covers_the_truth_as_often_as_it_says(make, truth):
    assert 0.93 <= coverage(2_000, make, truth) <= 0.97


@pytest.mark.slow
def test_a_bootstrap_covers_the_truth_as_often_as_it_says():
    assert 0.93 <= coverage(2_000, of_pairs(40, "bootstrap"), 0.3) <= 0.97


def test_an_interval_that_forgets_the_pairs_is_found_out():
    """Broken on purpose: the pairs are torn apart, so the shared part widens the interval far beyond 95 %."""

    def torn(generator):
        effect = of_pairs(20)(generator)
        shared = generator.normal(0, 3.0, 20)
        return paired_difference(shared + effect.estimate, generator.permutation(shared))

    assert not 0.93 <= coverage(400, torn, 0.3) <= 0.97
