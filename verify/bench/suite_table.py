"""The result of ``affdiv bench --suite`` as a table of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.bench.against import Ratio
from verify.bench.speed_table import WIDTH, digits, ratio_digits
from verify.bench.suite import AHEAD, BEHIND, LEVEL, SuiteRow, SuiteSpeed

_HEADINGS = ("", "ms", "base", "ours", "ours/base", "", "saved", "peak")
_STYLES = {AHEAD: "green", BEHIND: "red"}
_LEGEND = (
    "ms: median time of both passes of torch's layer; base: torch's layer with the normaliser in brackets; base, ours: "
    "times as multiples of torch's layer; ours/base: the median ratio and its 95 % interval; saved, peak: memory that "
    "ours saves for the backward pass and allocates at the peak, as multiples of torch's layer."
)


def print_suite(speed: SuiteSpeed, console: Console | None = None) -> None:
    """Print a line per case, eager and compiled, then how many are ahead, level and behind."""
    console = console or Console(highlight=False, width=WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=bool(heading))
    for row in speed.rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print()
    found = Counter(row.verdict or "not measured" for row in speed.rows)
    known = (AHEAD, LEVEL, BEHIND, "not measured")
    console.print(Text(", ".join(f"{found[v]} {v}" for v in known if found[v]) + f" of {len(speed.rows)} rows."))
    console.print(Text(_LEGEND))
    for row in speed.rows:
        if row.missing:
            console.print(Text(f"not measured: {row.case}, compiled: {row.missing}", style="yellow"))


def _cells(row: SuiteRow) -> list[Text | str]:
    name = "  compiled" if row.compiled else f"{row.case} ({row.adds})"
    if row.peer is None or row.ours is None or row.ours_to_peer is None:
        return [name, *[""] * 4, Text("not measured", style="yellow"), "", ""]
    return [
        name,
        digits(1e3 * row.seconds),
        ratio_digits(row.peer.median),
        ratio_digits(row.ours.median),
        interval(row.ours_to_peer),
        Text(row.verdict, style=_STYLES.get(row.verdict, "")),
        *(share(found) for found in (row.saved, row.peak)),
    ]


def interval(ratio: Ratio) -> str:
    """Return a ratio with its interval, such as ``0.98 [0.97, 0.99]``."""
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def share(found: Sequence[int] | None) -> str:
    """Return the bytes of ours as a multiple of torch's layer's, or an empty text if they were not counted."""
    return "" if found is None else f"{found[2] / max(1, found[0]):.2f}"
