"""The document as LaTeX, with its figures. Every number comes from a derivation, a check or a table."""

from __future__ import annotations

from derive.export.blocks import Block, Heading
from derive.export.front_matter import closing, opening
from derive.export.latex import page
from derive.export.outline import chapters_blocks, equation_ids
from verify.paper.checks import check_blocks
from verify.paper.claims import claim_blocks
from verify.paper.figures import Files
from verify.paper.gather import Content
from verify.paper.overview import overview_blocks
from verify.paper.runs import run_blocks
from verify.paper.speed import speed_blocks


def document(content: Content) -> tuple[str, dict[str, bytes]]:
    """Return the document as LaTeX, and its figures by file name."""
    files = Files()
    told = chapters_blocks(content.chapters)
    blocks: list[Block] = [
        Heading(0, ("The affine divergence: derivations, proofs and measurements",)),
        *overview_blocks(content),
        *opening("affdiv paper"),
        *told,
        *check_blocks(content.checks),
        *speed_blocks(content.speed, files),
        *run_blocks(content.sources, files),
        *claim_blocks(content.entries, set(equation_ids(told))),
        *closing([chapter.derivation for chapter in content.chapters]),
    ]
    return page(blocks, contents=True), files.contents
