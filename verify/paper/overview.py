"""The first pages: each claim with its verdict; each layer with its self factor, its maps and its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from derive.export.blocks import Block, Heading, Math, Paragraph, Prose, Ref, Table
from derive.export.linebreak import LINE_WIDTH
from derive.export.outline import Chapter
from derive.export.symbols import notation_for
from derive.export.tokens import width
from derive.record import CancellingMap, Derivation, Step
from verify.claims.ledger import Entry
from verify.paper.gather import Content

_CELL = 0.34  # width of the self-factor column, as a share of the line


def overview_blocks(content: Content) -> list[Block]:
    """Return the overview, for readers who read nothing else."""
    passed = sum(check["status"] == "pass" for check in content.checks)
    return [
        Heading(1, ("Results at a glance",)),
        Paragraph(
            (
                f"{len(content.chapters)} layers are derived, {len(content.checks)} checks were run, of which {passed} "
                f"passed, and {sum(len(source.trials) for source in content.sources)} trials of "
                f"{len(content.sources)} experiments are judged.",
            )
        ),
        _claims(content.entries),
        Paragraph(("The layers, in the order of their sections:",), leads=True),
        _layers(content.chapters),
    ]


def _claims(entries: Iterable[Entry]) -> Table:
    """Return the table of claims, with the verdict by derivation and by training."""
    header = (("",), ("claim",), ("derived",), ("tested",))
    rows = tuple(
        ((entry.claim.id,), (entry.claim.says,), (entry.derived or "–",), (entry.tested or "–",)) for entry in entries
    )
    return Table(header, rows, (0.05, 0.6, 0.11, 0.15))


def _layers(chapters: Iterable[Chapter]) -> Table:
    header = (("layer",), ("self factor",), ("maps that cancel",), ("steps",))
    return Table(header, tuple(map(_layer, chapters)), (0.22, _CELL, 0.17, 0.17))


def _layer(chapter: Chapter) -> tuple[Prose, ...]:
    derivation = chapter.derivation
    maps = ", ".join(dict.fromkeys(_named(found, derivation) for found in derivation.solutions)) or "none"
    return (derivation.layer.title,), _factor(derivation), (maps,), (counted(steps_of(derivation)),)


def _named(found: CancellingMap, derivation: Derivation) -> str:
    """Return a map's name; for a map of a part of the layer, with a note that says so."""
    return found.name if found.layer == derivation.layer else f"{found.name} (of a part)"


def _factor(derivation: Derivation) -> Prose:
    """Return the self factor, or a reference to it if it is too wide for its column."""
    layer = derivation.layer
    formula = notation_for(layer, *layer.parts)(derivation.self_factor.expression)
    fits = width(formula) < 0.9 * _CELL * LINE_WIDTH
    return (Math(formula),) if fits else ("equation ", Ref(derivation.step("self-factor").id))


def steps_of(derivation: Derivation) -> list[Step]:
    """Return the steps of a derivation and of its maps."""
    return [*derivation.steps, *(step for found in derivation.solutions for step in found.steps)]


def counted(steps: Iterable[Step]) -> str:
    """Return the number of steps with each verdict."""
    counts = Counter(step.verdict.status.value for step in steps)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
