"""H7: does the aligned update help, or the changed function? Layers crossed with update rules, at their best rates.

NLMS and FOOF align the update of an unchanged layer; affine-like and norm-like under SGD align it too, and change what
the layer computes. So NLMS over SGD on the unchanged layer shows the effect of alignment alone, and affine-like under
SGD over the unchanged layer under NLMS shows the effect of the function alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from verify.hypotheses.chosen import Chosen, compare, of, pair
from verify.hypotheses.finding import MARGIN, Finding, open_finding
from verify.hypotheses.networks import network
from verify.statistics import Region, Verdict

Cell = tuple[str, str]  # method and update rule
STATEMENT = "Alignment of the update, not the class of functions, is what affine-like gains by."
CRITERION = (
    "Supported where the unchanged layer gains by NLMS, and affine-like with SGD is at most "
    f"{MARGIN:g} of test accuracy above it. Contradicted where the interval of what NLMS gains lies below "
    f"{MARGIN:g} and affine-like with SGD is above it."
)
ABSENT = "no trials cross layers with the update rules SGD and NLMS"
_PART = "Paired difference of test accuracy at best rates: its 95 % interval above 0; contradicted below."


@dataclass(frozen=True)
class _Contrast:
    first: Cell
    second: Cell
    statement: str


ALIGNED = _Contrast(("none", "nlms"), ("none", "sgd"), "Alignment alone helps: none with NLMS against none with SGD.")
FUNCTION = _Contrast(
    ("affine-like", "sgd"),
    ("none", "nlms"),
    "The function alone helps: affine-like with SGD against none with NLMS.",
)
CONTRASTS = (
    ALIGNED,
    _Contrast(("none", "foof"), ("none", "sgd"), "Alignment alone helps: none with FOOF against none with SGD."),
    FUNCTION,
    _Contrast(
        ("norm-like", "sgd"),
        ("none", "nlms"),
        "The function alone helps: norm-like with SGD against none with NLMS.",
    ),
    _Contrast(("affine-like", "sgd"), ("none", "sgd"), "Both together help: affine-like against none, both with SGD."),
)


def judge(chosen: Sequence[Chosen]) -> list[Finding]:
    """Return the finding on H7, the comparisons on which it is based, and these for each network alone."""
    own = of(chosen, model="mlp")
    there = {(c.settings["method"], c.settings["update"]) for c in own}
    if not there >= {ALIGNED.first, ALIGNED.second, FUNCTION.first}:
        return [open_finding("H7", STATEMENT, CRITERION, ABSENT)]
    contrasts = [c for c in CONTRASTS if {c.first, c.second} <= there]
    parts = [_part(own, contrast) for contrast in contrasts]
    by_contrast = dict(zip(contrasts, parts, strict=True))
    networks: dict[str, list[Chosen]] = defaultdict(list)
    for one in own:
        networks[network(one)].append(one)
    alone = sorted(networks.items()) if len(networks) > 1 else []
    parts += [_part(found, contrast, f" ({name})") for name, found in alone for contrast in contrasts]
    return [_whole(by_contrast[ALIGNED], by_contrast[FUNCTION]), *parts]


def _part(chosen: Sequence[Chosen], contrast: _Contrast, where: str = "") -> Finding:
    (method, update), (other, rule) = contrast.first, contrast.second
    pairs = pair(of(chosen, method=method, update=update), of(chosen, method=other, update=rule), "method", "update")
    return compare(("H7", contrast.statement + where, _PART), pairs, Region(low=0.0), detail=True)


def _whole(aligned: Finding, function: Finding) -> Finding:
    """Return the finding on H7 with its probabilities; either verdict requires both parts."""
    reason = "; ".join(dict.fromkeys(filter(None, (aligned.reason, function.reason))))
    notes = "; ".join(dict.fromkeys(filter(None, (aligned.notes, function.notes))))
    trials = tuple(dict.fromkeys((*aligned.trials, *function.trials)))
    chances = None
    if aligned.effect and function.effect:
        chances = (
            max(Region(low=0.0).inside(aligned.effect), Region(high=MARGIN).inside(function.effect)),
            max(Region(high=MARGIN).inside(aligned.effect), Region(low=0.0).inside(function.effect)),
        )
    measure = "test accuracy that NLMS gains"
    return Finding(
        "H7", STATEMENT, CRITERION, Verdict.INCONCLUSIVE, aligned.effect, reason, trials, measure, False, notes, chances
    )
