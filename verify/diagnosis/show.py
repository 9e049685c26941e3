"""A diagnosis as a table for a person: layers, advice by map, and the layers without a judgement by reason."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.diagnosis.record import Diagnosis, LayerDiagnosis
from verify.report.numbers import factor, number, percent

_WIDTH = 160
_COLUMNS = ("Layer", "Type", "Samples", "Smallest", "Median", "Largest", "Ratio", "Self", "Cross", "Drift", "Step")


def table_text(found: Diagnosis) -> str:
    """Return what ``print_diagnosis`` prints, as text without colours."""
    stream = io.StringIO()
    _print(found, Console(file=stream, highlight=False, width=_WIDTH, no_color=True))
    return stream.getvalue()


def print_diagnosis(found: Diagnosis, title: str = "") -> None:
    """Print the table, the advice and what was not judged."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
    if title:
        console.print(Text(title, style="bold"))
    _print(found, console)


def _print(found: Diagnosis, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, heading in enumerate(_COLUMNS):
        table.add_column(heading, justify="left" if place < 2 else "right", no_wrap=place > 0, overflow="fold")
    for layer in found.layers:
        table.add_row(*(Text(cell) for cell in _cells(layer)))
    console.print(table)
    for line in remarks(found):
        console.print(Text(line), soft_wrap=True)


def _cells(layer: LayerDiagnosis) -> Sequence[str]:
    s, shares, drift = layer.factors, layer.shares, layer.drift
    step = "–" if shares is None else f"{number(shares.error, 2)}{'' if shares.exact else ' ✗'}"
    return (
        layer.name or "(root)",
        layer.type,
        f"{s.samples} {layer.sample}{'' if s.samples == 1 else 's'}",
        number(s.minimum),
        number(s.median),
        number(s.maximum),
        factor(s.ratio),
        percent(shares.own if shares else None),
        percent(shares.cross if shares else None),
        "–" if drift is None else factor(drift),
        step,
    )


def remarks(found: Diagnosis) -> list[str]:
    """Return the lines under the table: notes, advice grouped by map, and the layers without a judgement by reason."""
    lines = [f"note: {layer.name or '(root)'}: {layer.note}" for layer in found.layers if layer.note]
    lines += [f"{layer.name or '(root)'}: no shares: {layer.missing}" for layer in found.layers if layer.missing]
    advised = grouped((layer.name or "(root)", layer.advice) for layer in found.layers)
    lines += [f"advice for {names}: {advice}" for names, advice in advised]
    unjudged = ((f"{entry.name or '(root)'} ({entry.type})", entry.reason) for entry in found.unjudged)
    lines += [f"not judged: {names}: {reason}" for names, reason in grouped(unjudged)]
    wrong = [layer.name or "(root)" for layer in found.layers if layer.shares and not layer.shares.exact]
    if wrong:
        lines.append(f"the real step is not the derived one in {', '.join(wrong)}")
    losses = " -> ".join(number(loss) for loss in found.losses)
    lines.append(
        f"loss {losses} over {len(found.losses) - 1} virtual steps of rate {found.rate:g}; the model is unchanged"
    )
    return [*lines, f"the steps ended early: {found.stopped}"] if found.stopped else lines


def grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (names, words) for pairs of a name and words, those with the same words together, empty words left out."""
    by_words: dict[str, list[str]] = {}
    for name, words in pairs:
        if words:
            by_words.setdefault(words, []).append(name)
    return [(", ".join(names), words) for words, names in by_words.items()]
