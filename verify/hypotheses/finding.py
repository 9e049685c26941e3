"""What is said of a hypothesis: a statement, the criterion that was written before the run, and the verdict by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from verify.statistics import Effect, Verdict, holm

SURE = 0.05  # the largest probability, after Holm's correction, with which a statement of a family is made


@dataclass(frozen=True)
class Finding:
    """One statement with its verdict; ``trials`` are the ids of what it rests on, ``reason`` says what limits it.

    ``measure`` is what the effect counts (accuracies are shares from 0 to 1, losses are in nats). ``detail`` is set for
    a statement about a part of what another one, of the same hypothesis, is about: it decides nothing alone.
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


def open_finding(hypothesis: str, statement: str, criterion: str, reason: str) -> Finding:
    """Return a finding that the trials cannot decide, for that reason."""
    return Finding(hypothesis, statement, criterion, Verdict.INCONCLUSIVE, reason=reason)


def corrected(findings: Sequence[Finding], least: float = 0.0) -> list[Finding]:
    """Return the findings of one family, each judged by its interval and by Holm's correction over the family.

    The hypothesis of each is that its effect is above ``least``; the probabilities that are corrected, and shown, are
    those of an effect of just ``least``. A finding with a reason, or without an effect, stays inconclusive.
    """
    tested = [k for k, finding in enumerate(findings) if finding.effect is not None]
    adjusted = dict(zip(tested, holm([_effect(findings[k]).against(least) for k in tested]), strict=True))
    judged = []
    for k, finding in enumerate(findings):
        if finding.effect is None:
            judged.append(finding)
            continue
        effect = replace(finding.effect, p=adjusted[k])
        sure = not finding.reason and effect.p <= SURE
        verdict = effect.verdict(least) if sure else Verdict.INCONCLUSIVE
        judged.append(replace(finding, effect=effect, verdict=verdict))
    return judged


def _effect(finding: Finding) -> Effect:
    assert finding.effect is not None
    return finding.effect
