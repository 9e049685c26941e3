"""The result of ``affdiv bench --spec`` as a table for each set of sizes."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.bench.layer_speed import LayerSpeed, Row
from verify.bench.speed_table import digits, ratio_digits
from verify.report.numbers import number

_HEADINGS = ("", "", "fwd", "bwd", "both", "±", "ratio", "off by", "ran", "calls")
_TORCH = ("torch", "torch.compile")
_LEGEND = (
    "fwd, bwd, both: median milliseconds; ±: half the interquartile range of both; ratio: both over that of the layer "
    "composed in torch, round by round; off by: largest error against the formula in float64, relative to the largest "
    "entry; ran: the backend whose kernels ran; calls: how many kernels or operations both passes launched."
)


def print_layer_speed(speed: LayerSpeed, console: Console | None = None) -> None:
    """Print a table for each set of sizes, a legend, and what was not measured."""
    console = console or Console(highlight=False)
    for sizes in dict.fromkeys(row.sizes for row in speed.rows):
        rows = [row for row in speed.rows if row.sizes == sizes]
        rounds = rows[0].seconds["both"].launches
        console.print(Text(f"{speed.layer} at {sizes}, {speed.dtype}, {speed.device}: {rounds} rounds", style="bold"))
        console.print(_table(rows))
        for line in dict.fromkeys(_kernels(row) for row in rows if row.backend not in _TORCH):
            console.print(Text(line))
        console.print()
    console.print(Text(_LEGEND))
    for name, reason in speed.missing.items():
        console.print(Text(f"not measured: {name}: {reason}", style="yellow"))


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in _HEADINGS:
        right = heading not in ("", "ran")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        both = row.seconds["both"]
        table.add_row(
            row.computes.rpartition("/")[2],
            row.provider,
            *(digits(1e3 * row.seconds[part].median) for part in ("forward", "backward", "both")),
            f"{min(999, 100 * both.width):.0f}%",
            ratio_digits(row.ratio["both"].median),
            number(row.difference),
            row.backend,
            str(sum(row.kernels.values()) or ""),
            style="bold" if row.ours else None,
        )
    return table


def _kernels(row: Row) -> str:
    """Return one line that names the kernels of a row and counts them."""
    words = (f"{name.partition(':')[2]}{f' x{count}' if count > 1 else ''}" for name, count in row.kernels.items())
    return f"{row.computes.rpartition('/')[2]}, kernels in {row.backend}: {', '.join(words)}"
