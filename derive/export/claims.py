"""The statements of a checked result as blocks: what was compared with the forward map, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from derive.export.blocks import Block, Items, Paragraph, sentence
from derive.export.prose import inline
from derive.export.symbols import Notation
from derive.record import Claim, Verdict


def claim_blocks(claims: Sequence[Claim], notation: Notation) -> list[Block]:
    """Return the statements as a list; nothing for a result that was not checked."""
    if not claims:
        return []
    rows = [(*inline(sentence(c.statement), notation), f" [{_verdict(c.verdict)}]") for c in claims]
    return [Paragraph(("Checked against the forward map:",), leads=True), Items(tuple(rows))]


def _verdict(verdict: Verdict) -> str:
    """Return the word of a verdict, followed by its evidence if evaluation cannot prove the statement."""
    known = verdict.method.partition(" points,")[0]
    return f"{verdict.status.value}: {known} points" if "no counterexample among" in known else verdict.status.value
