"""A finding: a statement about a hypothesis, the criterion fixed before the run, and the verdict.

A statement claims that an effect lies in a region. Supported: a test shows that it does (two one-sided tests if the
region has two ends). Contradicted: the interval excludes the region. All findings on one hypothesis, over all tables,
form one family, and Holm's correction keeps its error rate at 5 %; findings on details form a second family.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from verify.statistics import Effect, Region, Verdict, holm

SURE = 0.05  # largest p-value, after Holm's correction, at which a statement counts as shown
MARGIN = 0.005  # of accuracy; methods within it are on par
MARGIN_NATS = 0.02  # the same for mean cross-entropy


@dataclass(frozen=True)
class Finding:
    """One statement with its verdict; ``trials`` are the ids of the trials behind it.

    ``measure`` is the unit of the effect (accuracies are shares from 0 to 1, losses are in nats). ``detail`` marks a
    statement about part of another finding of the same hypothesis; it decides nothing alone. ``reason`` says why
    nothing can be concluded, ``notes`` adds remarks. ``chances`` are the p-values under the hypotheses that the
    statement is false and that it is true; None if no test is needed. ``place`` and ``against`` name the setting and
    the rival method, for statements that together map a region of settings.
    """

    hypothesis: str
    statement: str
    criterion: str
    verdict: Verdict
    effect: Effect | None = None
    reason: str = ""
    trials: tuple[str, ...] = ()
    measure: str = ""
    detail: bool = False
    notes: str = ""
    chances: tuple[float, float] | None = None
    place: str = ""
    against: str = ""

    @property
    def asked(self) -> bool:
        """Whether there were trials that test the statement; without any it has no verdict."""
        return bool(self.trials)

    @property
    def remarks(self) -> str:
        """The reason and the notes."""
        return "; ".join(filter(None, (self.reason, self.notes)))


def open_finding(hypothesis: str, statement: str, criterion: str, reason: str, detail: bool = False) -> Finding:
    """Return a finding that the trials cannot decide, with the reason."""
    return Finding(hypothesis, statement, criterion, Verdict.INCONCLUSIVE, reason=reason, detail=detail)


def tested(finding: Finding, region: Region) -> Finding:
    """Return a finding with its p-values, for the statement that the effect lies in ``region``."""
    if finding.effect is None:
        return finding
    return replace(finding, chances=(region.inside(finding.effect), region.outside(finding.effect)))


def decided(tables: Sequence[Sequence[Finding]]) -> list[list[Finding]]:
    """Return the findings of several tables with verdicts, Holm-corrected over each hypothesis across all tables.

    The p-value of an effect is replaced by the corrected one. A finding with a reason is not tested, stays inconclusive
    and is left out of the correction, because its reason was known before the test data were examined.
    """
    families: dict[tuple[str, bool], list[tuple[int, int]]] = defaultdict(list)
    for table, findings in enumerate(tables):
        for place, finding in enumerate(findings):
            if finding.chances is not None and not finding.reason:
                families[finding.hypothesis, finding.detail].append((table, place))
    judged = [list(findings) for findings in tables]
    for members in families.values():
        adjusted = holm([_two_sided(tables[table][place]) for table, place in members])
        for (table, place), p in zip(members, adjusted, strict=True):
            judged[table][place] = _with_verdict(tables[table][place], p)
    return judged


def _two_sided(finding: Finding) -> float:
    assert finding.chances is not None
    return min(1.0, 2 * min(finding.chances))


def _with_verdict(finding: Finding, p: float) -> Finding:
    assert finding.chances is not None
    verdict = Verdict.INCONCLUSIVE
    if p <= SURE:
        verdict = Verdict.SUPPORTED if finding.chances[0] < finding.chances[1] else Verdict.CONTRADICTED
    effect = None if finding.effect is None else replace(finding.effect, p=p)
    return replace(finding, verdict=verdict, effect=effect)
