"""The claims ledger as a section: for each claim its equations, findings and criteria."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from derive.export.blocks import Block, Code, Heading, Inline, Items, Math, Paragraph, Prose, Ref, Table
from derive.export.linebreak import LINE_WIDTH
from derive.export.prose import inline
from derive.export.tokens import width
from verify.claims.ledger import Entry, Evidence
from verify.claims.proofs import Proof
from verify.report.numbers import number, with_powers

_HEADER = (("finding",), ("verdict",), ("effect",), ("95 % interval",), ("n",), ("limits",), ("table",))
_WIDTHS = (0.32, 0.13, 0.11, 0.14, 0.09, 0.08, 0.17)


def claim_blocks(entries: Iterable[Entry], ids: Container[str]) -> list[Block]:
    """Return the section on claims; ``ids`` are the equations contained in the document."""
    blocks: list[Block] = [
        Heading(1, ("Claims ledger",)),
        Paragraph(
            (
                "Proved: every step of the derivation behind each equation is proved, and the equations state what "
                "the claim says. Supported: the interval of the effect lies inside the range that the criterion "
                "states; contradicted: outside; inconclusive: neither, or something limits the trials. Holm's "
                "correction covers all findings of one hypothesis in all tables.",
            )
        ),
    ]
    for entry in entries:
        blocks += _claim(entry, ids)
    return blocks


def _claim(entry: Entry, ids: Container[str]) -> list[Block]:
    verdicts = [f"{entry.derived} by derivation"] if entry.derived else []
    verdicts += [entry.tested + (" by training" if entry.evidence else "")] if entry.tested else []
    blocks: list[Block] = [
        Heading(2, (f"{entry.claim.id}: {'; '.join(verdicts)}",)),
        Paragraph((entry.claim.says,)),
    ]
    if entry.proofs:
        blocks.append(Items(tuple(_proof(proof, ids) for proof in entry.proofs)))
    return [*blocks, *_findings(entry.evidence)]


def _proof(proof: Proof, ids: Container[str]) -> Prose:
    """Return an equation with its statement."""
    known = proof.equation in ids
    name: tuple[Inline, ...] = (Code(proof.equation), *((" ", Ref(proof.equation)) if known else ()))
    said: list[Inline] = []
    for place, piece in enumerate(proof.says.split("`")):
        said += _formula(piece, known) if place % 2 else [piece]
    return (*name, "" if proof.holds else " [not proved]", ": ", *said, ".")


def _formula(text: str, known: bool) -> Sequence[Inline]:
    """Return a formula as maths if it fits on a line; else a reference to it, or its text, which can wrap."""
    formula = inline(f"`{text}`")
    if all(isinstance(part, Math) and width(part.latex) < 0.6 * LINE_WIDTH for part in formula):
        return formula
    return ["the expression given there"] if known else [Code(text)]


def _findings(evidence: Sequence[Evidence]) -> list[Block]:
    deciding = [one for one in evidence if not one.finding.detail]
    if not deciding:
        return []
    remarks = dict.fromkeys(remark for one in deciding for remark in _remarks(one))
    marks = {remark: _mark(place) for place, remark in enumerate(remarks)}
    blocks: list[Block] = [Table(_HEADER, tuple(_row(one, marks) for one in deciding), _WIDTHS)]
    if marks:
        blocks.append(Items(tuple((f"({mark}) {with_powers(remark)}",) for remark, mark in marks.items())))
    if len(evidence) > len(deciding):
        said = f"{len(evidence) - len(deciding)} findings on single networks or settings are not decisive alone; "
        blocks.append(Paragraph((said, Code("affdiv claims"), " lists them.")))
    criteria = dict.fromkeys((one.finding.hypothesis, one.finding.criterion) for one in deciding)
    return [*blocks, *(Paragraph((f"Criterion ({name}): {with_powers(text)}",)) for name, text in criteria)]


def _remarks(one: Evidence) -> list[str]:
    return [part for part in one.finding.remarks.split("; ") if part]


def _mark(place: int) -> str:
    """Return one letter for each of the first 26 marks, then two letters."""
    return ("" if place < 26 else chr(96 + place // 26)) + chr(97 + place % 26)


def _row(one: Evidence, marks: Mapping[str, str]) -> tuple[Prose, ...]:
    finding, effect = one.finding, one.finding.effect
    shown, interval, count = "–", "–", f"{len(finding.trials)} trials"
    if effect is not None:
        interval = f"{number(effect.low)} to {number(effect.high)}"
        shown, count = f"{number(effect.estimate)} {finding.measure}", f"{effect.n} seeds"
    limits = " ".join(f"({marks[remark]})" for remark in _remarks(one)) or "–"
    texts = (f"{finding.hypothesis}. {finding.statement}", finding.verdict.value, shown, interval, count, limits)
    return (*((text,) for text in texts), (one.place.stem,))
