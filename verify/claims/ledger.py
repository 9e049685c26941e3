"""The claims with their proofs, training evidence and verdicts.

The claims are those of the paper's abstract and its author's posts, in our words (paper_notes/reconstruction.md); which
hypothesis is evidence for which claim was decided before any run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verify.claims.proofs import Proof
from verify.hypotheses import Finding, judge_all
from verify.statistics import Verdict
from verify.training.sources import Source

PROVED, NOT_PROVED = "proved", "not proved"
UNTESTED, MIXED = "not yet tested", "mixed"


@dataclass(frozen=True)
class Claim:
    """A claim, the hypotheses that test it, and whether it requires a derivation."""

    id: str
    says: str
    hypotheses: tuple[str, ...] = ()


CLAIMS = (
    Claim("C1", "Parameters take the steepest-descent step, activations do not: the factor is ‖x‖² + 1."),
    Claim("C2", "The same mismatch occurs in convolution, patch by patch, and in attention."),
    Claim("C3", "One correction is classical L2 or RMS normalisation, found without that motive.", ("H1", "H2")),
    Claim(
        "C4",
        "A second, affine-like correction is no normaliser: not scale invariant, it keeps all degrees of freedom and "
        "needs no epsilon.",
        ("H1", "H2"),
    ),
    Claim(
        "C5",
        "Affine-like matches or exceeds BatchNorm and LayerNorm in fully connected networks; its lead grows with width "
        "and depth.",
        ("H3", "H9"),
    ),
    Claim("C6", "So scale invariance is not what makes normalisation work.", ("H5",)),
    Claim(
        "C7",
        "Larger batches hurt layers that correct the divergence, leave LayerNorm about as it is, and help the others.",
        ("H4",),
    ),
    Claim(
        "C8",
        "PatchNorm, normalisers inseparable from the convolution, is on par with existing ones in conv nets.",
        ("H6",),
    ),
    Claim(
        "C9",
        "Normalisers split into activation-like maps with parameterised scaling; with a learned scale the divergence "
        "is only mitigated.",
    ),
    Claim("C10", "The divergence of attention and of residual connections is derived, not tested.", ("H8",)),
)
BEYOND = (
    Claim("H7", "Not of the paper: is it alignment of the update that helps, or the class of functions?", ("H7",)),
)


@dataclass(frozen=True)
class Evidence:
    """A finding and the file from which it was judged."""

    finding: Finding
    place: Path


@dataclass(frozen=True)
class Entry:
    """A claim with its evidence; ``derived`` or ``tested`` is None if the claim needs no proof or no training."""

    claim: Claim
    proofs: tuple[Proof, ...]
    evidence: tuple[Evidence, ...]
    derived: str | None
    tested: str | None


def ledger(sources: Sequence[Source], proofs: Mapping[str, tuple[Proof, ...]]) -> list[Entry]:
    """Return an entry for each claim, from ``proofs`` by claim and the trials of all sources."""
    judged = judge_all([source.trials for source in sources])
    found = [Evidence(f, source.place) for source, own in zip(sources, judged, strict=True) for f in own]
    asked = [evidence for evidence in found if evidence.finding.trials]
    return [_entry(claim, proofs.get(claim.id, ()), asked) for claim in (*CLAIMS, *BEYOND)]


def _entry(claim: Claim, proofs: tuple[Proof, ...], asked: Sequence[Evidence]) -> Entry:
    own = tuple(e for e in asked if e.finding.hypothesis in claim.hypotheses)
    derived = (PROVED if all(proof.holds for proof in proofs) else NOT_PROVED) if proofs else None
    tested = verdict_of([e.finding for e in own]) if claim.hypotheses else None
    return Entry(claim, proofs, own, derived, tested)


def verdict_of(findings: Sequence[Finding]) -> str:
    """Return the joint verdict of findings: that of the decided ones if they agree, else ``mixed``.

    A finding that covers only part of another finding's question is not counted.
    """
    verdicts = {finding.verdict for finding in findings if not finding.detail}
    decided = verdicts - {Verdict.INCONCLUSIVE}
    if not verdicts:
        return UNTESTED
    if not decided:
        return Verdict.INCONCLUSIVE.value
    if len(verdicts) == 1:
        return decided.pop().value
    return MIXED if len(decided) > 1 else f"{decided.pop().value} in part"
