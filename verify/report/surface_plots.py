"""The response surface: the lead of affine-like over each rival against the rate, and against the effective rate.

There are two panels for each update rule, network size and affine-like method, side by side if the page is wide enough.
A lead at equal rates that vanishes at equal effective rates was caused by the rate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter

from verify.hypotheses.finding import MARGIN
from verify.hypotheses.surface import Place, Surface
from verify.report.palette import FAINT, INK, PAPER_FAINT, PAPER_INK, Pen, on_paper, pens_for
from verify.report.plots import Picture
from verify.report.svg import inline, style

_SIZE = (4.4, 2.9)
_LEGEND_INCHES = 0.3
_LINEAR = 0.02  # the accuracy axis is linear within this distance of 0, and logarithmic beyond
_TICKS = (-0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
_APART = 1.04  # factor between the x positions of two rivals at one rate, to keep their intervals apart
_INTERVAL = "Lines: mean over seeds and networks; bars: 95 % intervals; band: within 0.005, on par."
Lines = Mapping[str, Sequence[Place]]


@dataclass(frozen=True)
class Panel:
    """The content of one panel: ``lines`` are the leads by rival; ``key`` is unique within an experiment."""

    key: str
    title: str
    across: str
    caption: str
    lines: Lines


def panels(found: Sequence[Surface]) -> list[Panel]:
    """Return the panels of surfaces: for each size, rule and affine-like method, one by rate and one by step."""
    groups: dict[tuple[str, int, int, str], list[Surface]] = defaultdict(list)
    for one in found:
        groups[one.update, one.width, one.depth, one.ours].append(one)
    every = [
        _panel(key, across, what, by, own)
        for (update, *_), own in groups.items()
        for key, across, what, by in (
            ("rate", "learning rate η", "at equal rates", attrgetter("by_rate")),
            ("step", _effective(update), "at equal effective rates", attrgetter("by_step")),
        )
    ]
    return [panel for panel in every if panel.lines]


def _panel(key: str, across: str, what: str, by: Callable[[Surface], Sequence[Place]], own: Sequence[Surface]) -> Panel:
    first = own[0]
    where = f"{first.update}, width {first.width}, depth {first.depth}"
    place = f"{key}-{first.update}-{first.width}-{first.depth}-{first.ours.replace('+', '-')}"
    caption = f"{first.ours} minus each other method {what}: {where}. {_INTERVAL}"
    return Panel(place, f"{first.ours}, {where}", across, caption, {one.rival: by(one) for one in own if by(one)})


def _effective(update: str) -> str:
    return f"effective rate {'η√κ' if update.startswith('adam') else 'ηκ'}"


def surface_pictures(name: str, found: Sequence[Surface], pens: Mapping[str, Pen]) -> list[Picture]:
    """Return the panels of surfaces as plots for a page; ``name`` makes their ids unique."""
    pictures = []
    for panel in panels(found):
        with style():
            figure = Figure(figsize=_SIZE, layout="constrained")
            draw(figure.subplots(), panel, pens)
            pictures.append(Picture(Markup(inline(figure, f"{name}-{panel.key}", panel.caption)), panel.caption))
    return pictures


def surface_sheet(found: Sequence[Surface]) -> str:
    """Return all panels of surfaces, two in a row, as one SVG file with a legend, in the colours of a light page."""
    every = panels(found)
    pens = on_paper(pens_for(sorted({rival for panel in every for rival in panel.lines})))
    rows = -(-len(every) // 2)
    with style(PAPER_INK, PAPER_FAINT):
        figure = Figure(figsize=(2 * _SIZE[0], rows * _SIZE[1] + _LEGEND_INCHES), layout="constrained")
        figure.add_artist(Rectangle((0, 0), 1, 1, transform=figure.transFigure, color="white", zorder=-1))
        places = figure.subplots(rows, 2, squeeze=False).flat
        for axes, panel in zip(places, every, strict=False):
            draw(axes, panel, pens, PAPER_INK, PAPER_FAINT)
        for axes in list(figure.axes)[len(every) :]:
            axes.remove()
        handles = {
            label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(pens), frameon=False)
        return inline(figure, "surface", f"The lead of affine-like over each other method. {_INTERVAL}") + "\n"


def draw(axes: Axes, panel: Panel, pens: Mapping[str, Pen], ink: str = INK, faint: str = FAINT) -> None:
    """Draw the lead over each rival. Call it inside ``style`` with the same colours."""
    axes.set_title(panel.title, pad=8)
    axes.set_xlabel(panel.across)
    axes.set_ylabel("lead in test accuracy")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=_LINEAR)
    axes.axhspan(-MARGIN, MARGIN, color=faint, zorder=0)
    axes.axhline(0.0, color=ink, linewidth=0.8)
    for number, (rival, places) in enumerate(panel.lines.items()):
        pen, shift = pens[rival], _APART ** (number - (len(panel.lines) - 1) / 2)
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
