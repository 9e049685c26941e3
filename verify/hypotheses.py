"""What a sweep says of each hypothesis: supported, contradicted or inconclusive, by a criterion written before the run.

Methods are compared at the learning rate that each does best with on validation data, in pairs of one seed. A finding
names the trials that it rests on. What the trials of an experiment cannot answer is inconclusive, and says why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from verify.statistics import Effect, Verdict, holm, paired_difference, slope_within
from verify.training.rates import BestRate, best_rates
from verify.training.store import Row

CORRECTED = ("affine-like", "norm-like")
LEAST_SEEDS = 5
_EVEN = 1e-3  # how far the largest over the smallest self factor may be from one, in 32-bit numbers
_FALLING, _FLAT, _RISING = "falls", "stays", "rises"
_EXPECTED = {"affine-like": _FALLING, "norm-like": _FALLING, "layer-norm": _FLAT}
_ELSEWHERE = {
    "H1": ("The self term is exact on corrected layers.", "affdiv verify measures it; sweeps record no single steps"),
    "H5": ("Scale invariance is not needed.", "no trial varies the angle of the family"),
    "H6": ("PatchNorm is on par in convolutional nets.", "no trial trains a convolutional net"),
    "H7": ("Alignment, not the class of functions, is what helps.", "judged from H3 for each update rule, by a person"),
    "H8": ("Corrected attention trains at least as well.", "no trial trains a transformer"),
}


@dataclass(frozen=True)
class Finding:
    """One statement with its verdict; ``trials`` are the ids of what it rests on, ``reason`` says what limits it."""

    hypothesis: str
    statement: str
    criterion: str
    verdict: Verdict
    effect: Effect | None = None
    reason: str = ""
    trials: tuple[str, ...] = ()


def judge(rows: Sequence[Row]) -> list[Finding]:
    """Return the findings of one experiment's trials, in the order of the hypotheses."""
    chosen = _at_best_rates(rows)
    judged = [*_spreads(rows), *_accuracies(chosen), *_batches(chosen)]
    for name, (statement, why) in _ELSEWHERE.items():
        judged.append(Finding(name, statement, "Not asked of these trials.", Verdict.INCONCLUSIVE, reason=why))
    return sorted(judged, key=lambda finding: finding.hypothesis)


@dataclass(frozen=True)
class _Chosen:
    """The finished trials of one setting at its best rate, by seed."""

    setting: dict[str, Any]
    best: BestRate
    by_seed: dict[int, Row]


def _at_best_rates(rows: Sequence[Row]) -> list[_Chosen]:
    found = []
    for best in best_rates(rows):
        setting = dict(best.setting)
        own = [
            row
            for row in rows
            if row.config.learning_rate == best.learning_rate
            and all(getattr(row.config, name) == value for name, value in setting.items())
            and row.result
            and row.result["test_accuracy"] is not None
        ]
        found.append(_Chosen(setting, best, {row.config.seed: row for row in own}))
    return found


def _spreads(rows: Sequence[Row]) -> list[Finding]:
    """H2: corrected layers have one self factor for all samples, at every measured step; others do not."""
    measured = [row for row in rows if row.result and row.result["spreads"] and row.result["diverged_at"] is None]
    own = [row for row in measured if row.config.method in CORRECTED]
    statement = "The self factor is the same for all samples in corrected layers, throughout training."
    criterion = f"Largest over smallest self factor within {_EVEN:g} of 1 in every layer and measured step."
    if not own:
        return [Finding("H2", statement, criterion, Verdict.INCONCLUSIVE, reason="no trial measured self factors")]
    worst = max(_ratio(row) for row in own)
    verdict = Verdict.SUPPORTED if worst <= 1 + _EVEN else Verdict.CONTRADICTED
    others = {
        row.config.method: max(_ratio(r) for r in measured if r.config.method == row.config.method) for row in measured
    }
    rest = ", ".join(f"{m} {v:.3g}" for m, v in sorted(others.items()) if m not in CORRECTED)
    reason = f"largest ratio {worst:.6g}" + (f"; elsewhere: {rest}" if rest else "")
    return [Finding("H2", statement, criterion, verdict, None, reason, tuple(row.id for row in own))]


def _ratio(row: Row) -> float:
    assert row.result is not None
    return max((s["maximum"] / s["minimum"] if s["minimum"] else math.inf) for s in row.result["spreads"])


def _accuracies(chosen: Sequence[_Chosen]) -> list[Finding]:
    """H3: affine-like against every other method, in pairs of equal settings and seeds."""
    statement = "Affine-like layers reach at least the test accuracy of {}."
    criterion = (
        "Paired difference of test accuracy at each method's best rate; its 95 % interval above 0, Holm over rivals."
    )
    rivals = sorted({c.setting["method"] for c in chosen} - {"affine-like"})
    findings = [_against(rival, chosen, statement.format(rival), criterion) for rival in rivals]
    tested = [k for k, finding in enumerate(findings) if finding.effect is not None]
    adjusted = holm([findings[k].effect.p for k in tested])  # type: ignore[union-attr]
    for k, p in zip(tested, adjusted, strict=True):
        effect = findings[k].effect
        assert effect is not None
        sure = p <= 0.05 and not findings[k].reason
        verdict = effect.verdict() if sure else Verdict.INCONCLUSIVE
        findings[k] = replace(findings[k], effect=replace(effect, p=p), verdict=verdict)
    return findings


def _against(rival: str, chosen: Sequence[_Chosen], statement: str, criterion: str) -> Finding:
    ours, theirs = _by_setting(chosen, "affine-like"), _by_setting(chosen, rival)
    pairs = [
        (ours[key].by_seed[seed], theirs[key].by_seed[seed])
        for key in ours
        if key in theirs
        for seed in sorted(ours[key].by_seed.keys() & theirs[key].by_seed.keys())
    ]
    by_seed: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for a, b in pairs:
        by_seed[a.config.seed].append((_accuracy(a), _accuracy(b)))
    if len(by_seed) < 2:
        return Finding(
            "H3", statement, criterion, Verdict.INCONCLUSIVE, reason="fewer than two seeds finished in pairs"
        )
    # Trials of one seed share its data and its first values: they count once, by their mean.
    means = [[fmean(side) for side in zip(*found, strict=True)] for found in by_seed.values()]
    effect = paired_difference([a for a, _ in means], [b for _, b in means])
    reasons = _limits([c for key in ours if key in theirs for c in (ours[key], theirs[key])])
    return Finding("H3", statement, criterion, Verdict.INCONCLUSIVE, effect, reasons, _ids(r for p in pairs for r in p))


def _batches(chosen: Sequence[_Chosen]) -> list[Finding]:
    """H4: the slope of test accuracy on the doublings of the batch, one line a seed."""
    by_method: dict[str, list[_Chosen]] = defaultdict(list)
    for one in chosen:
        if "batch_size" in one.setting:
            by_method[one.setting["method"]].append(one)
    findings = []
    for method, settings in sorted(by_method.items()):
        expected = _EXPECTED.get(method, _RISING)
        statement = f"Test accuracy of {method} {expected} with the batch size."
        criterion = (
            "Mean over seeds of the slope on log2(batch size) at each batch's best rate; sign of its 95 % interval."
        )
        lines = _lines(settings)
        if len(lines) < 2:
            why = "fewer than two seeds with two batch sizes"
            findings.append(Finding("H4", statement, criterion, Verdict.INCONCLUSIVE, reason=why))
            continue
        effect = slope_within([tuple(zip(*line, strict=True)) for line in lines.values()])  # type: ignore[misc]
        reason = _limits(settings)
        ids = _ids(row for c in settings for row in c.by_seed.values())
        verdict = Verdict.INCONCLUSIVE if reason else _as_expected(effect, expected)
        findings.append(Finding("H4", statement, criterion, verdict, effect, reason, ids))
    return findings


def _lines(settings: Sequence[_Chosen]) -> dict[Any, list[tuple[float, float]]]:
    """Return the points of each seed's line, of seeds with two batch sizes at least."""
    lines: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for one in settings:
        rest = tuple((k, v) for k, v in one.setting.items() if k != "batch_size")
        for seed, row in one.by_seed.items():
            lines[rest, seed].append((math.log2(one.setting["batch_size"]), _accuracy(row)))
    return {key: line for key, line in lines.items() if len(line) > 1}


def _as_expected(effect: Effect, expected: str) -> Verdict:
    """Judge a slope by its sign; that it is zero can be contradicted, never shown."""
    if expected == _FLAT:
        return Verdict.CONTRADICTED if effect.low > 0 or effect.high < 0 else Verdict.INCONCLUSIVE
    if expected == _RISING:
        return effect.verdict()
    return replace(effect, low=-effect.high, high=-effect.low).verdict()


def _limits(chosen: Sequence[_Chosen]) -> str:
    """Return why no conclusion may rest on these trials; nothing if it may."""
    seeds = min((len(c.by_seed) for c in chosen), default=0)
    edges = sorted({c.setting["method"] for c in chosen if c.best.at_edge})
    reasons = [f"{seeds} seeds, {LEAST_SEEDS} are needed"] if seeds < LEAST_SEEDS else []
    reasons += [f"the best rate of {', '.join(edges)} is at the edge of its grid"] if edges else []
    return "; ".join(reasons)


def _by_setting(chosen: Iterable[_Chosen], method: str) -> dict[Any, _Chosen]:
    own = (c for c in chosen if c.setting["method"] == method)
    return {tuple((k, v) for k, v in c.setting.items() if k != "method"): c for c in own}


def _accuracy(row: Row) -> float:
    assert row.result is not None
    return float(row.result["test_accuracy"])


def _ids(rows: Iterable[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.id for row in rows))
