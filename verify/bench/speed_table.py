"""The result of ``affdiv bench`` as a table of 80 columns a shape."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.bench.rows import Row, Speed

WIDTH = 80
_HEADINGS = ("", "fwd", "bwd", "both", "±", "ratio", "best", "FLOP", "copy", "saved", "peak", "host")
_LEGEND = (
    "fwd, bwd, both: milliseconds, medians; ±: half the distance of the quartiles of both; ratio: both by that of "
    "torch's layer, taken round by round; best: the same of the least times; FLOP, copy: the products' operations and "
    "the least traffic of both as shares of the best product and copy of this run; saved, peak: MiB kept for the "
    "backward pass and allocated at once; host: microseconds of a call at a tiny shape."
)


def print_speed(speed: Speed, console: Console | None = None) -> None:
    """Print a table a shape, what the figures mean, and what was not measured."""
    console = console or Console(highlight=False, width=WIDTH)
    for shape in dict.fromkeys(row.shape for row in speed.rows):
        rows = [row for row in speed.rows if row.shape == shape]
        launches = rows[0].seconds["both"].launches
        console.print(Text(f"{shape}, {speed.dtype}, {speed.device}: {launches} rounds", style="bold"))
        console.print(_table(rows))
        console.print()
    limits = speed.limits
    best = f"copy {limits.copy_bytes / 1e9:.3g} GB/s, product {limits.product_operations / 1e9:.4g} GFLOP/s"
    console.print(Text(f"Best of this run: {best}."))
    console.print(Text(_LEGEND))
    for reason in dict.fromkeys(speed.missing.values()):
        names = [name for name, why in speed.missing.items() if why == reason]
        console.print(Text(f"not measured: {'; '.join(names)}: {reason}", style="yellow"))


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row), style="bold" if row.ours else None)
    return table


def _cells(row: Row) -> list[str]:
    both = row.seconds["both"]
    return [
        row.provider,
        *(digits(1e3 * row.seconds[part].median) for part in ("forward", "backward", "both")),
        f"{min(999, 100 * both.width):.0f}%",
        ratio_digits(row.ratio["both"].median),
        ratio_digits(row.ratio_of_least["both"]),
        f"{100 * row.product_share['both']:.0f}%",
        f"{100 * row.copy_share['both']:.0f}%",
        digits(row.saved_bytes / 2**20),
        digits(row.peak_bytes / 2**20),
        "–" if row.host_seconds is None else digits(1e6 * row.host_seconds),
    ]


def ratio_digits(value: float) -> str:
    """Return a ratio in thousandths while that says something."""
    return f"{value:.3f}" if value < 9.9995 else f"{value:.0f}"


def digits(value: float) -> str:
    """Return a number above zero in three digits, as short as that can be."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
