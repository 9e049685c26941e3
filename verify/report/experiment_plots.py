"""The plots of an experiment: rates, batch sizes, and curves over training, one line per method.

A line is a mean over everything that its caption names; diverged trials have no value and are left out. Curves over
training steps need a store, because tables hold only final results.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from verify.hypotheses.batches import READINGS, read_at
from verify.hypotheses.chosen import Chosen
from verify.report.palette import Pen
from verify.report.plots import Picture, spaced
from verify.report.svg import inline, style
from verify.training.rates import Trial

_SIZE = (4.4, 2.9)
_LEGEND_INCHES = 0.17  # height of a legend row
_RATIO = "largest / smallest"
Point = tuple[str, float, float]  # label, x, y
Courses = Mapping[str, Mapping[str, Any]]
Labelling = Callable[[Mapping[str, Any]], str]


def labelling(trials: Sequence[Trial]) -> Labelling:
    """Return the function that names a trial's line: method or angle, with the update rule if several are compared."""
    several = len({trial["update"] for trial in trials}) > 1

    def label(settings: Mapping[str, Any]) -> str:
        name = str(settings["method"]) if settings["angle"] is None else f"t = {settings['angle']}"
        return f"{name}, {settings['update']}" if several else name

    return label


def pictures(
    name: str, trials: Sequence[Trial], chosen: Sequence[Chosen], courses: Courses, pens: Mapping[str, Pen]
) -> list[Picture]:
    """Return the plots for which there are trials; ``name`` makes their ids unique, ``pens`` are keyed by label."""
    found = []
    for panel in panels(trials, chosen, courses):
        key, title, caption, _, _ = panel
        with style():
            svg = inline(draw(panel, pens), f"{name}-{key}", f"{title}. {caption}")
        found.append(Picture(Markup(svg), caption))
    return found


def panels(trials: Sequence[Trial], chosen: Sequence[Chosen], courses: Courses) -> list[Panel]:
    """Return the panels for the trials: every plot with more than one position on its x axis."""
    label = labelling(trials)
    done = [trial for trial in trials if trial["outcome"] is not None]
    found = [*_sweeps(done, label), *_batches(chosen, label), *_courses(chosen, courses, label)]
    return [panel for panel in found if len({x for _, x, _ in panel[-1]}) > 1]


Panel = tuple[str, str, str, tuple[str, str, str, str], list[Point]]  # key, title, caption, (x, y, scales), points


def _sweeps(done: Sequence[Trial], label: Labelling) -> list[Panel]:
    """Return validation accuracy against rate and effective rate (a geometric mean if widths, so kappas, differ)."""
    up = "validation_accuracy"
    known = [(label(t), t["learning_rate"], t["effective_rate"], t[up]) for t in done if t[up] is not None]
    effective: dict[tuple[str, float], list[float]] = defaultdict(list)
    for name, rate, scaled, _ in known:
        if scaled is not None:
            effective[name, rate].append(scaled)
    places = {key: geometric_mean(found) for key, found in effective.items()}
    by_rate = [(name, rate, value) for name, rate, _, value in known]
    by_effect = [(name, places[name, rate], value) for name, rate, _, value in known if (name, rate) in places]
    what = "Validation accuracy at the end, mean over seeds and networks, by {}."
    y = ("validation accuracy", "log", "linear")
    return [
        ("rates", "Rate sweep", what.format("learning rate"), ("learning rate η", *y), by_rate),
        ("effective", "Rate sweep, effective", what.format("effective rate"), ("effective rate ηκ", *y), by_effect),
    ]


def _batches(chosen: Sequence[Chosen], label: Labelling) -> list[Panel]:
    panels: list[Panel] = []
    by_label: dict[str, list[Chosen]] = defaultdict(list)
    for one in chosen:
        by_label[label(one.settings)].append(one)
    for reading in READINGS:
        points = [
            (name, float(one.settings["batch_size"]), float(trial["test_accuracy"]))
            for name, own in by_label.items()
            for one in read_at(own, reading)[0]
            for trial in one.by_seed.values()
        ]
        caption = f"Test accuracy by batch size with {reading.says}, mean over seeds and networks."
        axes = ("batch size", "test accuracy", "log", "linear")
        panels.append((f"batch-{reading.name}", f"Batch size, {reading.name} rate", caption, axes, points))
    return panels


def _courses(chosen: Sequence[Chosen], courses: Courses, label: Labelling) -> list[Panel]:
    own = [
        (label(one.settings), courses[trial["trial"]])
        for one in chosen
        for trial in one.by_seed.values()
        if trial["trial"] in courses
    ]
    losses = [(name, float(p["step"]), p["train_loss"]) for name, course in own for p in course["points"]]
    right = [(name, float(p["step"]), p["validation_accuracy"]) for name, course in own for p in course["points"]]
    ratios = [(name, step, ratio) for name, course in own for step, ratio in _worst(course["spreads"])]
    shares = [
        (name, float(step["step"]), step["self_share"])
        for name, course in own
        for step in course.get("own_steps", ())
        if step["self_share"] is not None
    ]
    best = "at each setting's best rate, mean over seeds and networks"
    return [
        ("loss", "Training loss", f"Training loss {best}.", ("step", "cross-entropy (nats)", "linear", "log"), losses),
        (
            "accuracy",
            "Validation accuracy",
            f"Validation accuracy {best}.",
            ("step", "validation accuracy", "linear", "linear"),
            right,
        ),
        (
            "spread",
            "Spread of the self factor",
            f"Largest over smallest self factor in the worst layer, {best}; 1 is ideal.",
            ("step", _RATIO, "linear", "log"),
            ratios,
        ),
        (
            "share",
            "Share of one's own gradient",
            f"Share of a step that comes from each sample's own gradient, mean over layers, {best}.",
            ("step", "share", "linear", "linear"),
            shares,
        ),
    ]


def _worst(spreads: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return the largest ratio of any layer at each step."""
    by_step: dict[float, float] = defaultdict(float)
    for spread in spreads:
        ratio = spread["maximum"] / spread["minimum"] if spread["minimum"] else math.inf
        by_step[float(spread["step"])] = max(by_step[float(spread["step"])], ratio)
    return list(by_step.items())


def _means(points: Iterable[Point]) -> dict[str, dict[float, float]]:
    """Return for each label the mean y at each x, in order."""
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, place, value in points:
        if math.isfinite(value):
            values[name][place].append(value)
    return {name: {at: fmean(v) for at, v in sorted(places.items())} for name, places in sorted(values.items())}


def draw(panel: Panel, pens: Mapping[str, Pen], legend: bool = False) -> Figure:
    """Return the figure of a panel, with a legend below if ``legend``. Call it inside the context ``style``."""
    _, title, _, (across, up, across_scale, up_scale), points = panel
    lines = _means(points)
    columns = 3 if max(map(len, lines)) < 16 else 2
    below = _LEGEND_INCHES * -(-len(lines) // columns) if legend else 0.0
    figure = Figure(figsize=(_SIZE[0], _SIZE[1] + below), layout="constrained")
    axes: Axes = figure.subplots()
    axes.set_title(title, pad=8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_xscale(across_scale)
    axes.set_yscale(up_scale)
    for label, line in lines.items():
        pen = pens[label]
        marks: dict[str, Any] = {"marker": "o", "markersize": 2.6} if len(line) < 15 else {}
        axes.plot(
            list(line),
            list(line.values()),
            label=label,
            color=pen.marker,
            linestyle=pen.linestyle,
            linewidth=pen.width,
            **marks,
        )
    _ticks(axes, across, lines)
    if legend:
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=7.5, handlelength=2.6)
    return figure


def _ticks(axes: Axes, across: str, lines: Mapping[str, Mapping[float, float]]) -> None:
    """Format ticks: plain numbers, and a tick for every batch size."""
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(NullFormatter())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0)))
    if axes.get_ylabel() == _RATIO:
        axes.set_ylim(0.93, max(1.6, axes.get_ylim()[1]))
    if across == "batch size":
        axes.set_xticks(spaced(sorted({place for line in lines.values() for place in line})))
