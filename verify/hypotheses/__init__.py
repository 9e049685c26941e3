"""Judge each hypothesis on a sweep: supported, contradicted or inconclusive, by a criterion fixed before the run.

The input is the exported table, so anyone with the table can judge again. Each method uses the learning rate that works
best on the validation data of the tuning seeds; the other seeds compare methods in pairs of equal seed. A diverged run
counts as a failure. Each finding names the trials behind it. If the trials cannot answer a question, the verdict is
inconclusive and says why.

    self_factors   H1, H2     measurements on the layers themselves
    networks       H3, H6, H8 corrected layers against others in three kinds of network
    batches        H4         the slope on the batch size, in three readings
    surface        H9         the same rate for all methods, and the response surface
    alignment      H7         layers times update rules
    angles         H5         members of the affine family with and without scale invariance
    declared                  hypotheses declared in experiment files
"""

from __future__ import annotations

from collections.abc import Sequence

from verify.hypotheses import alignment, angles, batches, declared, networks, self_factors, surface
from verify.hypotheses.chosen import LEAST_SEEDS, Chosen, at_best_rates
from verify.hypotheses.finding import Finding, decided
from verify.statistics import Effect
from verify.training.own_hypotheses import Hypothesis
from verify.training.rates import Trial

__all__ = ["LEAST_SEEDS", "Chosen", "Finding", "judge", "judge_all"]


def judge(trials: Sequence[Trial], own: Sequence[Hypothesis] = ()) -> list[Finding]:
    """Return the findings of one experiment's trials (lines of its table), in the order of the hypotheses.

    ``own`` are the hypotheses declared in its file.
    """
    return judge_all([trials], [own])[0]


def judge_all(tables: Sequence[Sequence[Trial]], own: Sequence[Sequence[Hypothesis]] = ()) -> list[list[Finding]]:
    """Return the findings of several experiments, with Holm's correction over all; ``own`` has one entry per table.

    Experiments may share trials; a finding on trials already judged in an earlier experiment is listed only there.
    """
    declared_by = own or [()] * len(tables)
    return decided(_once([_findings(trials, its) for trials, its in zip(tables, declared_by, strict=True)]))


def _once(tables: Sequence[Sequence[Finding]]) -> list[list[Finding]]:
    """Drop each finding that an earlier table has on the same trials; findings without trials are kept."""
    seen: set[tuple[str, str, frozenset[str], Effect | None, str]] = set()
    kept: list[list[Finding]] = []
    for found in tables:
        named = [(f.hypothesis, f.statement, frozenset(f.trials), f.effect, f.reason) for f in found]
        kept.append([f for f, name in zip(found, named, strict=True) if not (f.trials and name in seen)])
        seen |= set(named)
    return kept


def _findings(trials: Sequence[Trial], own: Sequence[Hypothesis]) -> list[Finding]:
    """Return the findings on one experiment's trials, before verdicts."""
    chosen = at_best_rates(trials)
    judged = [
        *self_factors.identities(trials),
        *self_factors.spreads(trials),
        *(finding for question in networks.QUESTIONS for finding in networks.judge(chosen, question)),
        *networks.growth(chosen),
        *batches.judge(chosen),
        *surface.judge(chosen),
        *alignment.judge(chosen),
        *angles.judge(chosen),
    ]
    return [*sorted(judged, key=lambda finding: finding.hypothesis), *declared.judge(chosen, own)]
