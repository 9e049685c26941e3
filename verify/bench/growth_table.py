"""The result of ``affdiv bench --suite growth`` as a table of 80 columns and as a plot."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verify.bench.growth import Growth, GrowthRow
from verify.bench.record import svg_text
from verify.bench.speed_table import WIDTH, digits, ratio_digits

_HEADINGS = ("", "torch, ms", "ours, ms", "limit, ms", "ours/torch", "ours/limit")
_LEGEND = (
    "torch, ours: median time of both passes; limit: the roofline, from the best matrix product and the best copy of "
    "this run; slope: of log time against log limit at the three largest sizes, 1 if the time grows like the limit; "
    "steepest: the largest growth of the time over that of the limit, from one size to the next."
)
_COLUMNS = 2
_OURS, _TORCH, _LIMIT = "#c2185b", "#8a94a6", "#222222"


def print_growth(found: Growth, console: Console | None = None) -> None:
    """Print a table for each curve, then its slope and steepest step."""
    console = console or Console(highlight=False, width=WIDTH)
    for (name, axis), rows in found.by_curve.items():
        console.print(Text(f"{name}, by {axis}", style="bold"))
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        for heading in _HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(str(row.size), *(digits(1e3 * s) for s in (row.torchs, row.ours, row.limit)), *_ratios(row))
        console.print(table)
    console.print()
    for curve in found.curves:
        word = f"cliff at {curve.at}" if curve.cliff else "no cliff"
        said = f"{curve.name}, by {curve.axis}: slope {curve.slope:.2f}, steepest {curve.step:.2f}, {word}"
        console.print(Text(said, style="red" if curve.cliff else ""))
    console.print(Text(_LEGEND))


def _ratios(row: GrowthRow) -> tuple[str, str]:
    return ratio_digits(row.ours / row.torchs), ratio_digits(row.ours / row.limit)


def plot_growth(found: Growth) -> str:
    """Return one panel per curve, as SVG text: time against size, log-log, with the limit as a dashed line."""
    from matplotlib.figure import Figure

    curves = list(found.by_curve.items())
    down = -(-len(curves) // _COLUMNS)
    figure = Figure(figsize=(8.0, 2.3 * down), layout="constrained")
    panels = figure.subplots(down, _COLUMNS, squeeze=False).flatten()
    for axes, ((name, axis), rows) in zip(panels, curves, strict=False):
        sizes = [row.size for row in rows]
        for label, color, style, values in (
            ("ours", _OURS, "o-", [row.ours for row in rows]),
            ("torch's layer", _TORCH, "s-", [row.torchs for row in rows]),
            ("limit", _LIMIT, "--", [row.limit for row in rows]),
        ):
            axes.plot(sizes, [1e3 * v for v in values], style, color=color, label=label, markersize=3, linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.set_xlabel(axis, fontsize=8)
        axes.set_ylabel("both passes, ms", fontsize=8)
        axes.set_title(name, loc="left", fontsize=8)
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    panels[0].legend(fontsize=7, frameon=False)
    return svg_text(figure, "affdiv-growth")
