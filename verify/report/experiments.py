"""The experiments of a store as one HTML document: verdicts, pictures, and every trial that a number rests on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verify.hypotheses import Finding, judge
from verify.report.page import environment
from verify.report.palette import PENS
from verify.report.plots import Picture
from verify.report.svg import inline, style
from verify.training.export import COLUMNS, table
from verify.training.store import Row

_SIZE = (4.6, 3.0)


@dataclass(frozen=True)
class Section:
    """One experiment on the page: its text file, its findings and pictures, and its trials as columns to values."""

    name: str
    text: str
    findings: Sequence[Finding]
    pictures: Sequence[Picture]
    trials: Sequence[Mapping[str, Any]]
    methods: Sequence[str]


def render(experiments: Mapping[str, tuple[str, Sequence[Row]]]) -> str:
    """Return the page of experiments, each name with its file's text and its rows; it needs nothing else."""
    sections = [
        Section(name, text, judge(rows), pictures(name, rows), table(rows), sorted({row.config.method for row in rows}))
        for name, (text, rows) in experiments.items()
    ]
    template = environment().get_template("experiments.html.jinja")
    return template.render(sections=sections, columns=COLUMNS, pens=list(PENS.values()))


def pictures(name: str, rows: Sequence[Row]) -> list[Picture]:
    """Return the rate sweep, the accuracy by batch size and the spread of the self factor, of those that rows show."""
    done = [row for row in rows if row.result is not None]
    panels: list[tuple[str, str, str, str, Callable[[Row], float], Callable[[Row], float | None]]] = [
        ("rates", "Rate sweep", "learning rate", "validation accuracy", _rate, _validation),
        ("batches", "Batch size", "batch size", "test accuracy", _batch, _test),
        (
            "spread",
            "Spread of the self factor",
            "learning rate",
            "largest ratio",
            lambda r: r.config.learning_rate,
            _spread,
        ),
    ]
    return [
        _panel(f"{name}-{key}", title, across, up, _means(done, x, y))
        for key, title, across, up, x, y in panels
        if len({x(row) for row in done}) > 1 and any(y(row) is not None for row in done)
    ]


def _means(
    rows: Sequence[Row], x: Callable[[Row], float], y: Callable[[Row], float | None]
) -> dict[str, dict[float, float]]:
    """Return for each method the mean over its trials at each place; diverged trials have no value."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        value = y(row)
        if value is not None and math.isfinite(value):
            values[row.config.method][x(row)].append(value)
    return {method: {at: fmean(v) for at, v in sorted(places.items())} for method, places in sorted(values.items())}


def _rate(row: Row) -> float:
    return row.config.learning_rate


def _batch(row: Row) -> float:
    return float(row.config.batch_size)


def _validation(row: Row) -> float | None:
    result = row.result or {}
    return None if result["diverged_at"] is not None else result["points"][-1]["validation_accuracy"]


def _test(row: Row) -> float | None:
    return (row.result or {})["test_accuracy"]


def _spread(row: Row) -> float | None:
    spreads = (row.result or {})["spreads"]
    return max((s["maximum"] / s["minimum"] for s in spreads if s["minimum"]), default=None)


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
