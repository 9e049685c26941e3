"""The plots of the report, one panel each, sized for a phone; wider pages show them side by side."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from verify.report.palette import PENS
from verify.report.svg import inline, style
from verify.training.probe import Spread
from verify.training.sweep import SweepResult
from verify.training.trial import Point, TrialResult

_SIZE = (3.7, 2.75)
T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """One panel: its SVG element and its caption."""

    svg: Markup
    caption: str


def curves(sweep: SweepResult) -> list[Picture]:
    """Return the plots of training loss and validation error against the step."""
    return [
        _panel(
            "training-loss",
            "Training loss",
            "Mean cross-entropy over the training part; line: mean over seeds, band: their range. Lower is better.",
            lambda axes: _points(axes, sweep, lambda p: p.train_loss),
            ylabel="cross-entropy (nats)",
        ),
        _panel(
            "validation-error",
            "Validation error",
            "Share of validation samples classified wrongly; line: mean over seeds, band: range. Lower is better.",
            lambda axes: _points(axes, sweep, lambda p: 1 - p.validation_accuracy),
            ylabel="share wrong",
        ),
    ]


def self_factors(sweep: SweepResult) -> list[Picture]:
    """Return for each layer the plot of the self factor's range over samples against the step."""
    caption = "{}: smallest to largest self factor over the probed samples (band, all seeds) and its median (line)."
    return [
        _panel(
            f"self-factor-{_slug(layer)}",
            f"{layer.capitalize()}: self factor",
            caption.format(layer.capitalize()),
            lambda axes, layer=layer: _factors(axes, sweep, layer),  # type: ignore[misc]
            ylabel="self factor",
        )
        for layer in layers_of(sweep)
    ]


def spreads(sweep: SweepResult) -> list[Picture]:
    """Return for each layer the plot of the largest over the smallest self factor; 1 means no divergence."""
    caption = "{}: largest over smallest self factor, the mean over seeds (line) and their range (band). 1 is ideal."
    return [
        _panel(
            f"spread-{_slug(layer)}",
            f"{layer.capitalize()}: largest / smallest",
            caption.format(layer.capitalize()),
            lambda axes, layer=layer: _ratios(axes, sweep, layer),  # type: ignore[misc]
            ylabel="ratio over samples",
        )
        for layer in layers_of(sweep)
    ]


def rates(sweep: SweepResult) -> list[Picture]:
    """Return the plot of the tuning trials' validation error against the effective rate."""
    return [
        _panel(
            "rates",
            "Choosing the rate",
            "Validation error at the end of each tuning trial (one seed). The dot is the chosen rate.",
            lambda axes: _rates(axes, sweep),
            ylabel="share wrong",
            xlabel="effective rate ηκ",
        )
    ]


def layers_of(sweep: SweepResult) -> list[str]:
    """Return the names of the measured layers, from input to output."""
    return list(dict.fromkeys(s.layer for result in sweep.final for s in result.spreads))


def _panel(
    name: str, title: str, caption: str, draw: Callable[[Axes], None], *, ylabel: str, xlabel: str = "step of SGD"
) -> Picture:
    with style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, pad=8)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        draw(axes)
        return Picture(Markup(inline(figure, name, f"{title}. {caption}")), caption)


def _band(axes: Axes, method: str, x: np.ndarray, low: np.ndarray, line: np.ndarray, high: np.ndarray) -> None:
    pen = PENS[method]
    axes.fill_between(x, low, high, color=pen.marker, alpha=0.14, linewidth=0)
    axes.plot(x, line, color=pen.marker, linestyle=pen.linestyle, linewidth=pen.width)


def _points(axes: Axes, sweep: SweepResult, value: Callable[[Point], float]) -> None:
    for method in sweep.plan.methods:
        series = _by_step((p.step, value(p)) for result in sweep.of(method) for p in result.points)
        table = np.array([(step, min(v), np.mean(v), max(v)) for step, v in series.items()])
        _band(axes, method, *table.T)
    _log(axes, (1.0, 2.0, 5.0))


def _factors(axes: Axes, sweep: SweepResult, layer: str) -> None:
    for method in sweep.plan.methods:
        series = _by_step((s.step, s) for s in _spreads(sweep.of(method), layer))
        rows = [
            (step, min(s.minimum for s in v), np.mean([s.median for s in v]), max(s.maximum for s in v))
            for step, v in series.items()
        ]
        _band(axes, method, *np.array(rows).T)
    _log(axes, (1.0, 2.0, 5.0))
    lowest, highest = _range(sweep, lambda s: s.minimum), _range(sweep, lambda s: s.maximum)
    axes.set_ylim(lowest[0] / 1.3, highest[1] * 1.3)


def _ratios(axes: Axes, sweep: SweepResult, layer: str) -> None:
    for method in sweep.plan.methods:
        series = _by_step((s.step, s.ratio) for s in _spreads(sweep.of(method), layer))
        table = np.array([(step, min(v), np.mean(v), max(v)) for step, v in series.items()])
        _band(axes, method, *table.T)
    _log(axes, (1.0, 1.5, 2.0, 3.0, 5.0))
    axes.set_ylim(0.93, max(1.5, 1.1 * _range(sweep, lambda s: s.ratio)[1]))


def _rates(axes: Axes, sweep: SweepResult) -> None:
    for method in sweep.plan.methods:
        pen, choice = PENS[method], sweep.choice(method)
        kappa = choice.effective_rate / choice.learning_rate
        own = [r for r in sweep.tuning if r.config.method == method and r.diverged_at is None]
        x = [r.config.learning_rate * kappa for r in own]
        y = [1 - r.points[-1].validation_accuracy for r in own]
        axes.plot(x, y, color=pen.marker, linestyle=pen.linestyle, linewidth=pen.width)
        chosen = [(a, b) for a, b in zip(x, y, strict=True) if np.isclose(a, choice.effective_rate)]
        axes.plot([a for a, _ in chosen], [b for _, b in chosen], "o", color=pen.marker, markersize=5)
    _log(axes, (1.0, 2.0, 5.0))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(spaced(sweep.plan.effective_rates))


def spaced(places: Sequence[float], most: int = 8) -> list[float]:
    """Return the ascending tick positions on a logarithmic axis whose labels do not overlap, starting with the first.

    ``most`` is the number of labels that fit side by side.
    """
    if len(places) < 2 or places[0] <= 0:
        return list(places)
    least = math.log(places[-1] / places[0]) / most
    kept = [places[0]]
    for place in places[1:]:
        if math.log(place / kept[-1]) >= least:
            kept.append(place)
    return kept


def _log(axes: Axes, subdivisions: tuple[float, ...] = (1.0,)) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=subdivisions))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _range(sweep: SweepResult, value: Callable[[Spread], float]) -> tuple[float, float]:
    """Return the smallest and largest value over all layers, so that all panels share one scale."""
    values = [value(s) for result in sweep.final for s in result.spreads]
    return min(values), max(values)


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _by_step(pairs: Iterable[tuple[int, T]]) -> dict[int, list[T]]:
    series: dict[int, list[T]] = defaultdict(list)
    for step, value in pairs:
        series[step].append(value)
    return dict(sorted(series.items()))


def _spreads(results: list[TrialResult], layer: str) -> Iterable[Spread]:
    return (s for result in results for s in result.spreads if s.layer == layer)


def _slug(layer: str) -> str:
    return layer.replace(" ", "-")
