"""H5: is scale invariance needed? Compares members of the affine family, from a normaliser to affine-like.

Which members are scale invariant is derived from their angles. Each kind is represented by its member with the best
validation accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

from verify.hypotheses.chosen import Chosen, compare, of, pair
from verify.hypotheses.finding import MARGIN, Finding, open_finding
from verify.statistics import Region
from verify.training.angles import scale_invariant
from verify.training.config import ANGLE

STATEMENT = "Scale invariance is not needed: {}, which lacks it, does as well as {}, which has it."
CRITERION = (
    "Paired difference of test accuracy between the best member without scale invariance and the best with it, each "
    f"chosen with its rate on validation data of tuning seeds: its 95 % interval above -{MARGIN:g}; contradicted where "
    "it lies below."
)
_EACH = f"Paired difference of test accuracy at best rates: its 95 % interval above -{MARGIN:g}; contradicted below."


def judge(chosen: Sequence[Chosen]) -> list[Finding]:
    """Return the comparison of the best members of both kinds, then each non-invariant one against the best other."""
    own = of(chosen, method=ANGLE, update="sgd")
    angles = sorted({c.settings["angle"] for c in own})
    free = [angle for angle in angles if scale_invariant(angle) is False]
    bound = [angle for angle in angles if scale_invariant(angle)]
    if not free or not bound:
        statement = STATEMENT.format("a layer", "another")
        return [open_finding("H5", statement, CRITERION, "no trials at angles with and without scale invariance")]
    best_free, best_bound = _best(own, free), _best(own, bound)
    rest = [angle for angle in free if angle != best_free]
    return [_against(own, best_free, best_bound, CRITERION), *(_against(own, a, best_bound, _EACH) for a in rest)]


def _best(chosen: Sequence[Chosen], angles: Sequence[str]) -> str:
    """Return the angle with the best mean validation accuracy over its networks; diverged ones rank last."""
    return max(angles, key=lambda angle: _merit(of(chosen, angle=angle)))


def _merit(chosen: Sequence[Chosen]) -> tuple[int, float]:
    known = [c.best.validation_accuracy for c in chosen if c.best.validation_accuracy is not None]
    return len(known) - len(chosen), sum(known) / max(len(known), 1)


def _against(chosen: Sequence[Chosen], free: str, bound: str, criterion: str) -> Finding:
    head = ("H5", STATEMENT.format(f"t = {free}", f"t = {bound}"), criterion)
    pairs = pair(of(chosen, angle=free), of(chosen, angle=bound), "angle")
    return compare(head, pairs, Region(low=-MARGIN), detail=criterion is _EACH)
