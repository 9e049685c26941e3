"""Statistics of training runs: effects, confidence intervals, p-values, and verdicts by criteria fixed in advance.

Two methods trained from the same seeds are compared in pairs, because the seed affects both. An interval covers the
true effect in 95 of 100 repetitions, whatever the verdict; Holm's correction (1979) controls the error rate of a family
of statements.

Not done here: selecting runs, tuning rates, or defining hypotheses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

import numpy as np
from scipy import optimize, stats

LEAST_FOR_BOOTSTRAP = 20
_RESAMPLES = 2_000
Line = Sequence[tuple[float, float]]


class Verdict(StrEnum):
    """The outcome of a hypothesis; ``INCONCLUSIVE`` is a result too."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Effect:
    """An estimate with its interval, its two-sided p-value, and the number of samples."""

    estimate: float
    low: float
    high: float
    p: float
    n: int

    def above(self, bound: float) -> float:
        """Return the one-sided p-value (Student's t) of an estimate this high if the effect were ``bound``."""
        if self.low == self.high:
            return float(self.estimate <= bound)
        if math.isinf(bound):
            return float(bound > 0)
        freedom = self.n - 1
        error = (self.high - self.low) / (2 * float(stats.t.ppf(0.975, freedom)))
        return float(stats.t.sf((self.estimate - bound) / error, freedom))

    def below(self, bound: float) -> float:
        """Return the one-sided p-value of an estimate this low if the effect were ``bound``."""
        return Effect(-self.estimate, -self.high, -self.low, self.p, self.n).above(-bound)


@dataclass(frozen=True)
class Region:
    """The range of effects that a statement claims: above ``low`` and below ``high``, either of which may be missing.

    "At least as good" means above minus a margin, "on par" within the margin on both sides.
    """

    low: float = -math.inf
    high: float = math.inf

    def inside(self, effect: Effect) -> float:
        """Return the p-value of the null hypothesis that the effect is outside: two one-sided tests."""
        return max(effect.above(self.low), effect.below(self.high))

    def outside(self, effect: Effect) -> float:
        """Return the p-value of the null hypothesis that the effect is inside, at the bound that it exceeds."""
        return min(effect.below(self.low), effect.above(self.high))


def paired_difference(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, method: str = "t", seed: int = 0
) -> Effect:
    """Return the mean of ``first - second``, pair by pair.

    Args:
        first: one number per pair (seed), shape (n,).
        second: the other method's numbers, in the same order, shape (n,).
        confidence: the confidence level of the interval.
        method: ``"t"``, valid for any n if differences are nearly normal, or ``"bootstrap"`` (bias-corrected and
            accelerated, Efron 1987), which assumes no distribution but is too narrow for few pairs.
        seed: the seed of the resampling.

    Raises:
        ValueError: fewer than two pairs, different lengths, non-finite numbers, an unknown method, or too few pairs
            for the bootstrap.
    """
    differences = _finite("first", first) - _matching(_finite("second", second), len(first), "first", "second")
    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        raise ValueError(f"{n} pair: an interval needs at least two; run more seeds")
    if method == "bootstrap":
        return _bootstrap(differences, confidence, seed)
    if method != "t":
        raise ValueError(f"method {method!r}: known are 't' and 'bootstrap'")
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    return _by_t(mean, error, n - 1, n, confidence)


def _bootstrap(differences: np.ndarray, confidence: float, seed: int) -> Effect:
    """Return the bootstrap interval of the mean, with the p-value of a sign-flip test."""
    n, mean = len(differences), float(np.mean(differences))
    if n < LEAST_FOR_BOOTSTRAP:
        raise ValueError(
            f"bootstrap of {n} pairs: its interval is too narrow below {LEAST_FOR_BOOTSTRAP}; use method='t'"
        )
    if np.ptp(differences) == 0:
        return Effect(mean, mean, mean, 0.0 if mean else 1.0, n)
    generator = np.random.default_rng(seed)
    found = stats.bootstrap(
        (differences,), np.mean, confidence_level=confidence, n_resamples=_RESAMPLES, method="BCa", rng=generator
    )
    signs = generator.choice((-1.0, 1.0), size=(_RESAMPLES, n))
    reached = np.abs((signs * differences).mean(axis=1)) >= abs(mean) * (1 - 1e-12)
    p = (1 + int(reached.sum())) / (1 + _RESAMPLES)
    low, high = found.confidence_interval
    return Effect(mean, float(low), float(high), p, n)


def slope(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Effect:
    """Return the slope of the least-squares line of ``y`` on ``x``, both of shape (n,).

    Raises:
        ValueError: fewer than three points, different lengths, non-finite numbers, or all ``x`` equal.
    """
    across = _finite("x", x)
    up = _matching(_finite("y", y), len(across), "x", "y")
    if len(across) < 3:
        raise ValueError(f"{len(across)} points: the interval of a slope needs at least three")
    if np.ptp(across) == 0:
        raise ValueError(f"x is {across[0]} at all {len(across)} points: a slope needs at least two different values")
    line = stats.linregress(across, up)
    return _by_t(float(line.slope), float(line.stderr), len(across) - 2, len(across), confidence)


def slope_within(groups: Sequence[Sequence[Line]], confidence: float = 0.95) -> Effect:
    """Return the mean slope over groups of lines, each a sequence of points (x, y).

    An offset common to all points of a line cancels. A group (a seed) counts once, by the mean slope of its lines.

    Raises:
        ValueError: fewer than two groups, or a line without a slope.
    """
    slopes = [fmean(_line_slope(line) for line in lines) for lines in groups]
    return paired_difference(slopes, [0.0] * len(slopes), confidence)


def _line_slope(line: Line) -> float:
    across, up = _finite("x", [x for x, _ in line]), _finite("y", [y for _, y in line])
    if len(across) < 2 or np.ptp(across) == 0:
        raise ValueError("a line has fewer than two different values of x: it has no slope")
    return float(np.polyfit(across, up, 1)[0])


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return the p-values of one family of statements, adjusted by Holm's step-down rule, in the given order.

    Raises:
        ValueError: a number outside 0 to 1.
    """
    given = _finite("probabilities", probabilities)
    if ((given < 0) | (given > 1)).any():
        raise ValueError(f"probabilities {list(probabilities)}: each must lie between 0 and 1")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty(len(given))
    weights = np.arange(len(given), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * weights), 1.0) if len(given) else []
    return [float(p) for p in adjusted]


def power(effect: float, deviation: float, n: int, family: int = 1, level: float = 0.05) -> float:
    """Return the power: the probability that n pairs detect a true effect, in a family of ``family`` statements.

    ``effect`` is the distance of the true effect from the statement's bound, ``deviation`` the standard deviation of a
    paired difference, in the same unit. The test is two-sided Student's t at the strictest step of Holm's rule, so the
    result is a lower bound.
    """
    if n < 2:
        return 0.0
    limit = float(stats.t.ppf(1 - level / (2 * family), n - 1))
    return float(stats.nct.sf(limit, n - 1, abs(effect) / deviation * math.sqrt(n)))


def smallest_effect(deviation: float, n: int, wanted: float = 0.8, family: int = 1) -> float:
    """Return the smallest effect that n pairs detect with power ``wanted``; infinite for fewer than two pairs."""
    if n < 2:
        return math.inf
    largest = 1.0
    while power(largest, 1.0, n, family) < wanted:
        largest *= 2
    return deviation * float(optimize.brentq(lambda effect: power(effect, 1.0, n, family) - wanted, 0.0, largest))


def pairs_needed(
    effect: float, deviation: float, wanted: float = 0.8, family: int = 1, most: int = 10_000
) -> int | None:
    """Return the number of pairs that detect an effect with power ``wanted``, None if above ``most``."""
    if power(effect, deviation, most, family) < wanted:
        return None
    low, high = 1, most  # the power grows with the number of pairs
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, deviation, middle, family) >= wanted else (middle, high)
    return high


def _by_t(estimate: float, error: float, freedom: int, n: int, confidence: float) -> Effect:
    """Return an estimate with its interval and two-sided p-value by Student's t."""
    if error == 0:
        return Effect(estimate, estimate, estimate, 0.0 if estimate else 1.0, n)
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return Effect(
        estimate, estimate - reach, estimate + reach, float(2 * stats.t.sf(abs(estimate / error), freedom)), n
    )


def _finite(name: str, values: Sequence[float]) -> np.ndarray:
    """Return the numbers as an array (n,); diverged runs, which have no number, must be handled before."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(
            f"{name}: every entry must be a finite number; leave out diverged runs, or assign them a value"
        )
    return array


def _matching(array: np.ndarray, n: int, first: str, second: str) -> np.ndarray:
    if len(array) != n:
        raise ValueError(f"{first} has {n} numbers and {second} {len(array)}: they must form pairs")
    return array
