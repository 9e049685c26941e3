"""The result of ``affdiv bench`` as one table of 80 columns per shape."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.bench.rows import Row, Speed

WIDTH = 80
_HEADINGS = ("", "fwd", "bwd", "both", "±", "ratio", "best", "FLOP", "copy", "saved", "peak", "host")
_LEGEND = (
    "fwd, bwd, both: median milliseconds; ±: half the interquartile range of both; ratio: both over that of torch's "
    "layer, round by round; best: the ratio of the least times; FLOP, copy: rate of operations and of minimum traffic "
    "as shares of the best product and copy of this run; saved, peak: MiB saved for the backward pass and allocated at "
    "the peak; host: microseconds of both passes at a tiny shape."
)


def print_speed(speed: Speed, console: Console | None = None) -> None:
    """Print a table per shape, a legend, and what was not measured."""
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
    """Return a ratio with three decimals, or fewer if it is large."""
    return f"{value:.3f}" if value < 9.9995 else f"{value:.0f}"


def digits(value: float) -> str:
    """Return a positive number with three significant digits, in the shortest form."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
