"""The ledger as a Markdown page: a table of claims, then each claim's equations, findings and source files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from derive.errors import printable
from verify.claims.ledger import Entry, Evidence
from verify.claims.regions import region_lines
from verify.hypotheses import Finding
from verify.report.numbers import number

_HEAD = """\
# Claims ledger

The evidence for each claim of the paper. This page is written by

    affdiv claims --table paper_notes/results -o paper_notes/claims.md

from the derivations, which it repeats and checks each time, and from the tables of training runs in
[results](results). The tables contain all that is needed to judge again. The verdicts mean:

* **proved**: every step of the derivation behind each equation is proved, and the equations state what the claim says.
  `affdiv derive LAYER --check` and `affdiv solve LAYER` repeat the derivations. Most are written out in
  [derivation.md](derivation.md); the layer `residual` is declared in [proofs.py](../verify/claims/proofs.py).
* **supported**: the interval of the effect lies inside the range that the finding's criterion states;
  **contradicted**: it lies outside; **inconclusive**: neither, or something limits the trials. Holm's correction covers
  all findings of one hypothesis in all tables; findings on single networks, in thin type, are corrected among
  themselves. If a criterion was changed after a table was trained, [results](results/README.md) says so.
* **mixed** or **in part**: the findings of one claim disagree, or only some of them are decided.
* **not yet tested**: no table contains trials that test the claim.
* **could have been seen**: the smallest effect beyond a statement's bound that its pairs detect with a power of 0.8,
  given the measured scatter and Holm's correction. An inconclusive statement excludes only effects larger than this.

We did not have the body of the paper: the claims are in our words, from its abstract and its author's posts
([reconstruction.md](reconstruction.md)). Every number is ours.
"""


def markdown(entries: Sequence[Entry], folder: Path) -> str:
    """Return the page; links to tables are relative to ``folder``, where the page will be saved."""
    parts = [_HEAD, _table(entries), *(_section(entry, folder) for entry in entries)]
    return "\n".join(parts)


def _table(entries: Iterable[Entry]) -> str:
    lines = ["| id | claim | derived | tested |", "|---|---|---|---|"]
    for entry in entries:
        claim = entry.claim
        lines.append(
            f"| [{claim.id}](#{claim.id.lower()}) | {claim.says} | {entry.derived or '–'} | {entry.tested or '–'} |"
        )
    return "\n".join(lines) + "\n"


def _section(entry: Entry, folder: Path) -> str:
    verdicts = [f"{entry.derived} by derivation"] if entry.derived else []
    verdicts += [f"{entry.tested}" + (" by training" if entry.evidence else "")] if entry.tested else []
    lines = [f"## {entry.claim.id}", "", f"{entry.claim.says} **{'; '.join(verdicts)}.**", ""]
    lines += [f"* `{p.equation}`{'' if p.holds else ' (**not proved**)'}: {p.says}" for p in entry.proofs]
    lines += [""] if entry.proofs else []
    if entry.evidence:
        lines += region_lines(entry.evidence)
        lines += _findings([one for one in entry.evidence if not one.finding.place], folder)
    return "\n".join(lines)


def _findings(evidence: Sequence[Evidence], folder: Path) -> list[str]:
    lines = [
        "| | finding | verdict | effect | 95 % interval | n | limits | table |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in evidence:
        cells = (one.finding.hypothesis, *_cells(one.finding), _link(one.place, folder))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    criteria = dict.fromkeys((e.finding.hypothesis, e.finding.criterion) for e in evidence)
    return [*lines, "", *(f"Criterion ({name}): {text}" + "\n" for name, text in criteria)]


def _cells(finding: Finding) -> tuple[str, ...]:
    verdict = f"{finding.verdict.value}" if finding.detail else f"**{finding.verdict.value}**"
    effect = finding.effect
    if effect is None:
        return finding.statement, verdict, "–", "–", f"{len(finding.trials)} trials", finding.remarks
    interval = f"{number(effect.low)} to {number(effect.high)}"
    shown = f"{number(effect.estimate)} {finding.measure}"
    return finding.statement, verdict, shown, interval, f"{effect.n} seeds", finding.remarks


def _link(place: Path, folder: Path) -> str:
    target = Path(os.path.relpath(place, folder)).as_posix()
    return f"[{_plain(place.name)}]({quote(target)})"


def _plain(name: str) -> str:
    """Return a file name without characters that Markdown, HTML or a terminal would interpret."""
    return "".join(f"\\{c}" if c in "\\`*{}[]<>()#!&~" else c for c in printable(name))
