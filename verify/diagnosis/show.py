"""Format a diagnosis as text: findings, layers, advice by map, and unjudged layers by reason."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from verify.diagnosis.findings.finding import MILD, Finding
from verify.diagnosis.record import Diagnosis, LayerDiagnosis
from verify.report.numbers import factor, number, percent, with_powers

_WIDTH = 160
_NAME_WIDTH = 24  # a longer name may wrap to the next line if room is short
_GAP = 2
_LEFT = ("Layer", "Type")


def table_text(found: Diagnosis, width: int = _WIDTH) -> str:
    """Return the output of ``print_diagnosis`` as text without colours."""
    stream = io.StringIO()
    _print(found, Console(file=stream, highlight=False, width=width, no_color=True))
    return stream.getvalue()


def print_diagnosis(found: Diagnosis, title: str = "") -> None:
    """Print the findings, tables, advice and unjudged layers, within the terminal's width."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
    if title:
        console.print(Text(title, style="bold"))
    _print(found, console)


def _print(found: Diagnosis, console: Console) -> None:
    for place, table in enumerate(_tables(found, console.width)):
        if place:
            console.print()
        console.print(table)
    console.print()
    for place, finding in enumerate(found.findings, start=1):
        head = f"{place}. {finding.kind}" + (f" ({finding.place})" if finding.place else "")
        console.print(Text(head, style="" if finding.kind in MILD else "bold red"))
        for line in told(finding):
            console.print(Padding(Text(line), (0, 0, 0, 3)))
    if not found.findings:
        console.print("no finding")
    for line in remarks(found):
        console.print(Text(line), soft_wrap=True)


def told(finding: Finding) -> list[str]:
    """Return the cause, the fix and the evidence of a finding, one line each."""
    shown = [f"{name} {_evidence(value)}" for name, value in finding.evidence.items()]
    if finding.threshold is not None and shown:
        shown[0] += f" (threshold {number(finding.threshold)})"
    return [with_powers(f"{finding.cause}."), with_powers(f"fix: {finding.fix}"), f"evidence: {'; '.join(shown)}"]


def _evidence(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(_evidence(part) for part in value)
    return str(value)


def _tables(found: Diagnosis, width: int) -> list[Table]:
    """Return the fewest tables that hold all columns within the width; each begins with the layers' names."""
    columns = columns_of(found.layers)
    names = columns.pop("Layer")
    longest = max((len(cell) for cell in names), default=5)
    rest = {heading: max(map(len, (heading, *cells))) for heading, cells in columns.items()}
    for name_width in (longest, min(longest, _NAME_WIDTH)):
        groups = _packed(rest, width - max(name_width, 5))
        if len(groups) == 1:
            break
    tables = []
    for group in groups:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
        table.add_column("Layer", overflow="fold", min_width=min(longest, _NAME_WIDTH))
        for heading in group:
            table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=True)
        for row, name in enumerate(names):
            table.add_row(Text(name), *(Text(columns[heading][row]) for heading in group))
        tables.append(table)
    return tables


def _packed(widths: dict[str, int], room: int) -> list[list[str]]:
    """Return the headings in groups that each fit into the width."""
    groups: list[list[str]] = [[]]
    used = 0
    for heading, width in widths.items():
        if groups[-1] and used + _GAP + width > room:
            groups.append([])
            used = 0
        groups[-1].append(heading)
        used += _GAP + width
    return groups


def columns_of(layers: Sequence[LayerDiagnosis]) -> dict[str, list[str]]:
    """Return the columns of the table: cells by heading."""
    rows = [_cells(layer) for layer in layers]
    headings = _HEADINGS if any(layer.parts for layer in layers) else [h for h in _HEADINGS if h not in _OF_PARTS]
    return {heading: [row[heading] for row in rows] for heading in headings}


_OF_PARTS = ("Own", "Upstream", "Both", "Cosine", "Step/weight", "Step/activation")
_HEADINGS = (
    "Layer", "Type", "Samples", "Smallest", "Median", "Largest", "Ratio", "Self", "Cross", "Drift", "Step", *_OF_PARTS,
)  # fmt: skip


_MANY = {"entry": "entries"}


def _cells(layer: LayerDiagnosis) -> dict[str, str]:
    s, shares, drift, parts = layer.factors, layer.shares, layer.drift, layer.parts
    step = "–" if shares is None else f"{number(shares.error, 2)}{'' if shares.exact else ' ✗'}"
    return {
        "Layer": layer.name or "(root)",
        "Type": layer.type,
        "Samples": f"{s.samples} {layer.sample if s.samples == 1 else _MANY.get(layer.sample, f'{layer.sample}s')}",
        "Smallest": number(s.minimum),
        "Median": number(s.median),
        "Largest": number(s.maximum),
        "Ratio": factor(s.ratio),
        "Self": _percent(shares.own if shares else None),
        "Cross": _percent(shares.cross if shares else None),
        "Drift": "–" if drift is None else factor(drift),
        "Step": step,
        "Own": _percent(parts.own if parts else None),
        "Upstream": _percent(parts.upstream if parts else None),
        "Both": _percent(parts.both if parts else None),
        "Cosine": number(parts.cosine if parts else None, 2),
        "Step/weight": number(parts.update_to_weight if parts else None, 2),
        "Step/activation": number(parts.update_to_activation if parts else None, 2),
    }


def _percent(share: float | None) -> str:
    """Return a percentage with an ordinary space, which every terminal can show."""
    return percent(share).replace("\u202f", " ")


def remarks(found: Diagnosis) -> list[str]:
    """Return the lines under the table: notes, advice grouped by map, and unjudged layers grouped by reason."""
    lines = [f"note: {layer.name or '(root)'}: {layer.note}" for layer in found.layers if layer.note]
    lines += [f"{layer.name or '(root)'}: no shares: {layer.missing}" for layer in found.layers if layer.missing]
    advised = grouped((layer.name or "(root)", layer.advice) for layer in found.layers)
    lines += [f"advice for {names}: {advice}" for names, advice in advised]
    unjudged = ((f"{entry.name or '(root)'} ({entry.type})", entry.reason) for entry in found.unjudged)
    lines += [f"not judged: {names}: {reason}" for names, reason in grouped(unjudged)]
    lines.append(f"judged: layers with {_percent(found.judged)} of the parameters that the step moves")
    wrong = [layer.name or "(root)" for layer in found.layers if layer.shares and not layer.shares.exact]
    if wrong:
        lines.append(f"the real step differs from the derived one in {', '.join(wrong)}")
    if not found.ok and not found.layers:
        lines.append("no layer could be judged, so nothing is known to be right")
    losses = " -> ".join(number(loss) for loss in found.losses)
    lines.append(
        f"loss {losses} over {len(found.losses) - 1} virtual steps of {found.optimizer}, rate {found.rate:g}; "
        "the model is unchanged"
    )
    return [*lines, f"the steps ended early: {found.stopped}"] if found.stopped else lines


def grouped(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (names, text) for pairs of a name and a text, grouped by equal texts; empty texts are left out."""
    by_words: dict[str, list[str]] = {}
    for name, words in pairs:
        if words:
            by_words.setdefault(words, []).append(name)
    return [(", ".join(names), words) for words, names in by_words.items()]
