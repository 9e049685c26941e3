"""Judge hypotheses declared in an experiment file: one group of runs against another, each at its best rate."""

from __future__ import annotations

from collections.abc import Sequence

from verify.hypotheses.chosen import Chosen, compare, of, pair
from verify.hypotheses.finding import Finding, open_finding
from verify.statistics import Region
from verify.training.own_hypotheses import LOWER, SAME, Hypothesis


def judge(chosen: Sequence[Chosen], own: Sequence[Hypothesis]) -> list[Finding]:
    """Return a finding for each declared hypothesis."""
    return [_finding(chosen, one) for one in own]


def _finding(chosen: Sequence[Chosen], one: Hypothesis) -> Finding:
    head = (one.name, one.statement, _criterion(one))
    pairs = pair(of(chosen, **dict(one.group)), of(chosen, **dict(one.against)), *(name for name, _ in one.group))
    if not pairs.cells:
        return open_finding(*head, "no trial of one group has a partner in the other that agrees in everything else")
    region = Region(-one.margin, one.margin) if one.direction == SAME else Region(low=one.margin)
    return compare(head, pairs, region, one.metric, one.direction == LOWER)


def _criterion(one: Hypothesis) -> str:
    effect = f"Paired difference of {one.metric.replace('_', ' ')} at each setting's best rate, mean over the others"
    if one.direction == SAME:
        return f"{effect}: its 95 % interval within {one.margin:g} of 0. Contradicted where the interval lies beyond."
    lower = ", how much lower" if one.direction == LOWER else ""
    return f"{effect}{lower}: its 95 % interval above {one.margin:g}. Contradicted where the interval lies below it."
