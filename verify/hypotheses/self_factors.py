"""H1 and H2: measurements on the layers themselves during training."""

from __future__ import annotations

from collections.abc import Sequence

from verify.hypotheses.chosen import ids
from verify.hypotheses.finding import Finding, open_finding
from verify.statistics import Verdict
from verify.training.rates import Trial

CORRECTED = ("affine-like", "norm-like", "patch-norm", "patch-norm-like", "patch-norm-centred", "angle")
EVEN = 1e-3  # allowed departure from 1 of the largest over the smallest self factor
EXACT = 1e-12  # bound on the relative error of a step in float64
RATIO = "largest_self_factor_ratio"
ERROR, OVER_BOUND = "largest_identity_error_float64", "largest_identity_error_over_bound"


def spreads(trials: Sequence[Trial]) -> list[Finding]:
    """H2: corrected layers have one self factor for all samples, at every measured step; others do not."""
    statement = "The self factor is the same for all samples in corrected layers, throughout training."
    criterion = f"Largest over smallest self factor within {EVEN:g} of 1 in every layer and measured step."
    measured = [trial for trial in trials if trial[RATIO] is not None]
    own = [trial for trial in measured if trial["method"] in CORRECTED]
    if not own:
        return [open_finding("H2", statement, criterion, "no trial measured the self factor of a corrected layer")]
    worst = max(trial[RATIO] for trial in own)
    verdict = Verdict.SUPPORTED if worst <= 1 + EVEN else Verdict.CONTRADICTED
    notes = f"largest ratio {worst:.6g}" + _diverged(own) + _worst_elsewhere(measured, RATIO)
    return [Finding("H2", statement, criterion, verdict, trials=ids(own), notes=notes)]


def identities(trials: Sequence[Trial]) -> list[Finding]:
    """H1: a step on one sample moves its activation by ``-eta kappa g``, inside networks that train."""
    statement = "On corrected layers the self term is exact throughout training: one sample's step moves z by -ηκg."
    criterion = (
        f"Largest |Δz + ηκg|/|ηκg| of any measured step at most {EXACT:g} in float64, and at most what rounding may "
        "make in the type that the trial trains in."
    )
    measured = [t for t in trials if t[ERROR] is not None]
    own = [trial for trial in measured if trial["method"] in CORRECTED]
    if not own:
        return [open_finding("H1", statement, criterion, "no trial of a corrected layer took single steps")]
    exact, rounded = max(t[ERROR] for t in own), max(t[OVER_BOUND] for t in own)
    verdict = Verdict.SUPPORTED if exact <= EXACT and rounded <= 1 else Verdict.CONTRADICTED
    types = ", ".join(sorted({t["dtype"] for t in own}))
    others = _diverged(own) + _worst_elsewhere(measured, ERROR)
    notes = f"largest error {exact:.2g} in float64, {rounded:.2g} of the rounding bound in {types}"
    return [Finding("H1", statement, criterion, verdict, trials=ids(own), notes=notes + others)]


def _diverged(own: Sequence[Trial]) -> str:
    """Describe how many of the trials diverged later; their earlier measurements count."""
    lost = sum(trial["diverged_at"] is not None for trial in own)
    return f", {lost} runs that diverged included" if lost else ""


def _worst_elsewhere(measured: Sequence[Trial], column: str) -> str:
    """Describe the largest value of a column for each uncorrected method."""
    others = sorted({t["method"] for t in measured} - set(CORRECTED))
    worst = [f"{method} {max(t[column] for t in measured if t['method'] == method):.3g}" for method in others]
    return f"; elsewhere: {', '.join(worst)}" if worst else ""
