"""The document's figures as PDF vector graphics, reproducible from the results alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from derive.export.pdf import FIGURES
from verify.bench.speed_note import Run
from verify.report.experiment_plots import Panel, draw
from verify.report.palette import PAPER_FAINT, PAPER_INK, Pen, on_paper
from verify.report.svg import pdf, style

_OURS, _OTHERS = "#1d6fb8", "#c3cad4"
_BAR_INCHES, _MOST_SHOWN = 0.17, 3.0


@dataclass
class Files:
    """The figures, by file path relative to the document."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def add(self, stem: str, content: bytes) -> str:
        """Add a figure and return its file name; characters that LaTeX rejects in file names become dashes."""
        name = f"{FIGURES}/{re.sub('[^A-Za-z0-9-]+', '-', stem)}.pdf"
        self.contents[name] = content
        return name


def panel_figure(panel: Panel, pens: Mapping[str, Pen]) -> bytes:
    """Return a plot of an experiment as in its report, with a legend below."""
    with style(PAPER_INK, PAPER_FAINT):
        return pdf(draw(panel, on_paper(pens), legend=True))


def speed_figure(run: Run) -> bytes:
    """Return the ratios of a run as bars, one panel per shape."""
    shapes = list(dict.fromkeys(row["shape"] for row in run["rows"]))
    groups = [[row for row in run["rows"] if row["shape"] == shape] for shape in shapes]
    heights = [len(group) for group in groups]
    with style(PAPER_INK, PAPER_FAINT):
        size = (6.3, _BAR_INCHES * sum(heights) + 0.45 * len(groups) + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(groups), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
        for axes, shape, rows in zip(grid[:, 0], shapes, groups, strict=True):
            ratios = [row["ratio"]["both"] for row in rows]
            places = range(len(rows))
            medians = [ratio["median"] for ratio in ratios]
            errors = [[r["median"] - r["lower"] for r in ratios], [r["upper"] - r["median"] for r in ratios]]
            colours = [_OURS if row["ours"] else _OTHERS for row in rows]
            axes.barh(places, medians, xerr=errors, color=colours, height=0.72, ecolor=PAPER_INK, error_kw={"lw": 0.7})
            axes.axvline(1.0, color=PAPER_INK, linewidth=0.7)
            axes.set_yticks(places, [row["provider"] for row in rows], fontsize=7.5)
            axes.grid(False, axis="y")
            axes.set_title(f"{shape}, {run['dtype']}", fontsize=9)
            axes.invert_yaxis()
        longest = max(row["ratio"]["both"]["upper"] for row in run["rows"])
        grid[-1, 0].set_xlim(0, min(_MOST_SHOWN, 1.05 * longest))
        grid[-1, 0].set_xlabel("forward and backward, as a multiple of torch's layer")
        return pdf(figure)
