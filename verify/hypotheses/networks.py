"""H3, H6 and H8: corrected layers against every other method, over an experiment's networks, each at its best rate.

Each update rule that steps entry by entry (such as Adam) is judged separately; a statement without one is about plain
descent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from verify.hypotheses.chosen import ACCURACY, LOSS, Chosen, compare, failures, limits, methods_of, of, pair, slope
from verify.hypotheses.finding import MARGIN, MARGIN_NATS, Finding, open_finding, tested
from verify.statistics import Region, Verdict
from verify.training.config import WIDE_KAPPA
from verify.training.stacked_update import RULES


@dataclass(frozen=True)
class Question:
    """The question about one kind of network: the methods ``ours`` are compared with all others.

    ``region`` is the range of differences that the statement claims: above minus a margin, or within it on both sides.
    """

    hypothesis: str
    model: str
    ours: tuple[str, ...]
    measure: str
    region: Region
    statement: str
    criterion: str
    absent: str


H3 = Question(
    "H3",
    "mlp",
    ("affine-like", WIDE_KAPPA),
    ACCURACY,
    Region(low=-MARGIN),
    "In fully connected networks, {} layers reach at least the test accuracy of {}.",
    "Paired difference of test accuracy at each method's best rate, mean over the networks, one number a seed: its "
    f"95 % interval above -{MARGIN:g}. Contradicted where the interval lies below -{MARGIN:g}.",
    "no trial compares affine-like with another method in fully connected networks",
)
H6 = Question(
    "H6",
    "cnn",
    ("patch-norm", "patch-norm-like", "patch-norm-centred"),
    ACCURACY,
    Region(-MARGIN, MARGIN),
    "In convolutional networks, {} is on par with {}.",
    f"Paired difference of test accuracy at each method's best rate: its 95 % interval within {MARGIN:g} of 0. "
    "Contradicted where the interval lies beyond, on either side.",
    "no trial trains a convolutional network with PatchNorm and with another method",
)
H8 = Question(
    "H8",
    "transformer",
    ("affine-like", "norm-like"),
    LOSS,
    Region(low=-MARGIN_NATS),
    "Transformers with {} projections train at least as well as with {}.",
    "Paired difference of test loss at each method's best rate, how much lower: its 95 % interval above "
    f"-{MARGIN_NATS:g}. Contradicted where the interval lies below -{MARGIN_NATS:g}.",
    "no trial trains a transformer with corrected projections and with others",
)
QUESTIONS = (H3, H6, H8)


def judge(chosen: Sequence[Chosen], question: Question) -> list[Finding]:
    """Return a finding for every pair of one of ours and a rival, then one for each single network."""
    own = of(chosen, model=question.model)
    found = [f for rule in RULES for ours in question.ours for f in _against_all(of(own, update=rule), question, ours)]
    if not found:
        statement = question.statement.format(question.ours[0], "others")
        return [open_finding(question.hypothesis, statement, question.criterion, question.absent)]
    return found


def _against_all(chosen: Sequence[Chosen], question: Question, ours: str) -> list[Finding]:
    present = methods_of(chosen)
    rivals = [method for method in present if method not in question.ours and not method.startswith("angle")]
    if ours not in present or not rivals:
        return []
    rule = "" if chosen[0].settings["update"] == "sgd" else chosen[0].settings["update"]
    found = _family(chosen, question, ours, rivals, rule)
    networks: dict[str, list[Chosen]] = defaultdict(list)
    for one in chosen:
        networks[network(one)].append(one)
    for name, own in sorted(networks.items()) if len(networks) > 1 else ():
        found += _family(own, question, ours, rivals, ", ".join(filter(None, (rule, name))), detail=True)
    return found


def _family(
    chosen: Sequence[Chosen], question: Question, ours: str, rivals: Sequence[str], where: str, detail: bool = False
) -> list[Finding]:
    findings = []
    for rival in rivals:
        statement = question.statement.format(ours, rival) + (f" ({where})" if where else "")
        head = (question.hypothesis, statement, question.criterion)
        pairs = pair(of(chosen, method=ours), of(chosen, method=rival), "method")
        falling = question.measure == LOSS
        findings.append(compare(head, pairs, question.region, question.measure, falling, detail))
    return findings


def network(one: Chosen) -> str:
    """Return the name of a setting's network: its sizes, its activation and what differs from the defaults."""
    s = one.settings
    first = "" if s["init"] == "variance-preserving" else f", {s['init']}"
    kernel = f", kernel {s['kernel']:g}" if s["kernel"] != 3 else ""
    groups = f", {s['groups']:g} groups" if s["groups"] != 1 else ""
    halving = ", pooled" if s["halving"] == "pool" else ""
    return f"width {s['width']:g}, depth {s['depth']:g}, {s['activation']}{first}{kernel}{groups}{halving}"


def growth(chosen: Sequence[Chosen]) -> list[Finding]:
    """Return the findings on the second half of C5: how affine-like's lead changes per doubling of width and depth."""
    found = []
    for rule in RULES:
        own = of(chosen, model=H3.model, update=rule)
        rivals = [m for m in methods_of(own) if m not in H3.ours and not m.startswith("angle")]
        sizes = [size for size in ("width", "depth") if len({c.settings[size] for c in own}) > 1]
        ours = [method for method in H3.ours if of(own, method=method)]
        found += [_growth(own, method, rival, size) for size in sizes for method in ours for rival in rivals]
    return found


def _growth(chosen: Sequence[Chosen], ours: str, rival: str, size: str) -> Finding:
    rule = chosen[0].settings["update"]
    where = "" if rule == "sgd" else f" ({rule})"
    statement = f"The lead of {ours} over {rival} in test accuracy grows with the {size}{where}."
    criterion = (
        f"Slope of the paired difference on log2({size}), mean over the other settings, one number a seed: its 95 % "
        "interval above 0. Contradicted where the interval lies below 0."
    )
    pairs = pair(of(chosen, method=ours), of(chosen, method=rival), "method")
    effect = slope(
        (
            seed,
            own.key("method", size),
            math.log2(own.settings[size]),
            first[ACCURACY] - theirs.by_seed[seed][ACCURACY],
        )
        for own, theirs in pairs.cells
        for seed, first in own.by_seed.items()
        if seed in theirs.by_seed
    )
    if effect is None:
        return open_finding("H3", statement, criterion, f"fewer than two judging seeds at two {size}s", detail=True)
    unit, limit, notes = f"test accuracy per doubling of the {size}", limits(pairs.chosen), failures(pairs.chosen)
    found = Finding("H3", statement, criterion, Verdict.INCONCLUSIVE, effect, limit, pairs.trials(), unit, True, notes)
    return tested(found, Region(low=0.0))
