"""The experiments of a store as one HTML document: verdicts, pictures, and every trial that a number rests on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verify.hypotheses import Finding
from verify.report.page import environment
from verify.report.palette import PENS
from verify.report.plots import Picture
from verify.report.svg import inline, style
from verify.training.export import COLUMNS
from verify.training.rates import Trial
from verify.training.sources import Source

_SIZE = (4.6, 3.0)


@dataclass(frozen=True)
class Section:
    """One experiment on the page: its text file, its findings and pictures, and its trials as columns to values."""

    name: str
    text: str
    findings: Sequence[Finding]
    pictures: Sequence[Picture]
    trials: Sequence[Trial]
    methods: Sequence[str]


def render(sources: Sequence[Source], findings: Mapping[str, Sequence[Finding]]) -> str:
    """Return the page of experiments; it needs nothing outside itself.

    Args:
        sources: the experiments.
        findings: what ``judge`` says of each one's trials, by its name.
    """
    sections = [_section(s.name, s.text, s.trials, findings[s.name]) for s in sources]
    template = environment().get_template("experiments.html.jinja")
    return template.render(sections=sections, columns=COLUMNS, pens=list(PENS.values()))


def _section(name: str, text: str, trials: Sequence[Trial], findings: Sequence[Finding]) -> Section:
    return Section(name, text, findings, pictures(name, trials), trials, sorted({t["method"] for t in trials}))


def pictures(name: str, trials: Sequence[Trial]) -> list[Picture]:
    """Return the rate sweep, the accuracy by batch size and the spread of the self factor, where trials show them."""
    panels = (
        ("rates", "Rate sweep", "learning_rate", "validation_accuracy"),
        ("batches", "Batch size", "batch_size", "test_accuracy"),
        ("spread", "Spread of the self factor", "learning_rate", "largest_self_factor_ratio"),
    )
    done = [trial for trial in trials if trial["outcome"] is not None]
    return [
        _panel(f"{name}-{key}", title, _words(x), _words(y), _means(done, x, y))
        for key, title, x, y in panels
        if len({t[x] for t in done}) > 1 and any(t[y] is not None for t in done)
    ]


def _words(column: str) -> str:
    return column.replace("_", " ")


def _means(trials: Sequence[Trial], x: str, y: str) -> dict[str, dict[float, float]]:
    """Return for each method the mean of a column over its trials at each place; diverged trials have no value."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        if trial[y] is not None and math.isfinite(trial[y]):
            values[trial["method"]][trial[x]].append(trial[y])
    return {method: {at: fmean(v) for at, v in sorted(places.items())} for method, places in sorted(values.items())}


def _panel(name: str, title: str, across: str, up: str, lines: Mapping[str, Mapping[float, float]]) -> Picture:
    caption = f"Mean {up} over all finished trials of a method, by {across}."
    with style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes: Axes = figure.subplots()
        axes.set_title(title, pad=8)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_xscale("log")
        for method, line in lines.items():
            pen = PENS[method]
            axes.plot(
                list(line),
                list(line.values()),
                "o",
                color=pen.marker,
                linestyle=pen.linestyle,
                linewidth=pen.width,
                markersize=3,
            )
        return Picture(Markup(inline(figure, name, f"{title}. {caption}")), caption)
