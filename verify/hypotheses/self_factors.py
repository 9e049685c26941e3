"""H1 and H2: what was measured on the layers themselves while they trained."""

from __future__ import annotations

from collections.abc import Sequence

from verify.hypotheses.chosen import ids
from verify.hypotheses.finding import Finding, open_finding
from verify.statistics import Verdict
from verify.training.rates import Trial

CORRECTED = ("affine-like", "norm-like", "patch-norm", "patch-norm-like", "patch-norm-centred", "angle")
EVEN = 1e-3  # how far the largest over the smallest self factor may be from one
RATIO = "largest_self_factor_ratio"


def spreads(trials: Sequence[Trial]) -> list[Finding]:
    """H2: corrected layers have one self factor for all samples, at every measured step; others do not."""
    statement = "The self factor is the same for all samples in corrected layers, throughout training."
    criterion = f"Largest over smallest self factor within {EVEN:g} of 1 in every layer and measured step."
    measured = [trial for trial in trials if trial[RATIO] is not None and trial["diverged_at"] is None]
    own = [trial for trial in measured if trial["method"] in CORRECTED]
    if not own:
        return [open_finding("H2", statement, criterion, "no trial measured the self factor of a corrected layer")]
    worst = max(trial[RATIO] for trial in own)
    verdict = Verdict.SUPPORTED if worst <= 1 + EVEN else Verdict.CONTRADICTED
    others = {t["method"]: max(o[RATIO] for o in measured if o["method"] == t["method"]) for t in measured}
    rest = ", ".join(f"{m} {ratio:.3g}" for m, ratio in sorted(others.items()) if m not in CORRECTED)
    reason = f"largest ratio {worst:.6g}" + (f"; elsewhere: {rest}" if rest else "")
    return [Finding("H2", statement, criterion, verdict, None, reason, ids(own))]


def identities(trials: Sequence[Trial]) -> list[Finding]:
    """H1: not asked of trials, which recorded no single steps."""
    statement, criterion = "The self term is exact on corrected layers.", "Not asked of these trials."
    return [
        open_finding("H1", statement, criterion, "affdiv verify measures it; these trials recorded no single steps")
    ]
