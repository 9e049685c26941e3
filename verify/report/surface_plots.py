"""The response surface: the lead of affine-like over each rival against the rate, and against the effective rate.

Two panels for each update rule, size of network and affine-like method, side by side where the page has room: a lead
that is there at equal rates and gone at equal effective rates was one of the rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from verify.hypotheses.finding import MARGIN
from verify.hypotheses.surface import Place, Surface
from verify.report.palette import FAINT, INK, Pen
from verify.report.plots import Picture
from verify.report.svg import inline, style

_SIZE = (4.4, 2.9)
_LINEAR = 0.02  # of accuracy on either side of 0, beyond which the axis is logarithmic
_TICKS = (-0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
_APART = 1.04  # the factor between the places of two rivals at one rate, so that their intervals can be told apart
_INTERVAL = "Lines: mean over seeds and networks; bars: 95 % intervals; band: within 0.005, on par."
Lines = Mapping[str, Sequence[Place]]


def surface_pictures(name: str, found: Sequence[Surface], pens: Mapping[str, Pen]) -> list[Picture]:
    """Return the panels of the surfaces that have more than one place; ``name`` keeps their ids apart on a page."""
    groups: dict[tuple[str, int, int, str], list[Surface]] = defaultdict(list)
    for one in found:
        groups[one.update, one.width, one.depth, one.ours].append(one)
    pictures = []
    for (update, width, depth, ours), own in groups.items():
        where, by = f"{update}, width {width}, depth {depth}", "η√κ" if update.startswith("adam") else "ηκ"
        panels: tuple[tuple[str, str, str, dict[str, Sequence[Place]]], ...] = (
            ("rate", "learning rate η", "at equal rates", {one.rival: one.by_rate for one in own}),
            ("step", f"effective rate {by}", "at equal effective rates", {one.rival: one.by_step for one in own}),
        )
        for key, across, what, every in panels:
            lines = {rival: places for rival, places in every.items() if places}
            if not lines:
                continue
            caption = f"{ours} minus each other method {what}: {where}. {_INTERVAL}"
            with style():
                figure = draw(f"{ours}, {where}", across, lines, pens)
                place = f"{name}-{key}-{update}-{width}-{depth}-{ours.replace('+', '-')}"
                pictures.append(Picture(Markup(inline(figure, place, caption)), caption))
    return pictures


def draw(title: str, across: str, lines: Lines, pens: Mapping[str, Pen]) -> Figure:
    """Return a panel with the lead over each rival at its places. Call it inside ``style``."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_title(title, pad=8)
    axes.set_xlabel(across)
    axes.set_ylabel("lead in test accuracy")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=_LINEAR)
    axes.axhspan(-MARGIN, MARGIN, color=FAINT, zorder=0)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    for number, (rival, places) in enumerate(lines.items()):
        pen, shift = pens[rival], _APART ** (number - (len(lines) - 1) / 2)
        effects = [effect for _, effect in places]
        middle = [effect.estimate for effect in effects]
        reach = [[e.estimate - e.low for e in effects], [e.high - e.estimate for e in effects]]
        axes.errorbar(
            [place * shift for place, _ in places],
            middle,
            yerr=reach,
            color=pen.marker,
            linestyle=pen.linestyle,
            linewidth=pen.width,
            elinewidth=0.9,
            marker="o",
            markersize=2.6,
            label=rival,
        )
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in _TICKS if low <= tick <= high])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure
