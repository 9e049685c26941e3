"""Plot the ratios of ``affdiv bench``: one bar per provider and shape, with the quartiles as whiskers."""

from __future__ import annotations

from verify.bench.record import svg_text
from verify.bench.rows import Row, Speed

_BAR_INCHES, _MOST_SHOWN = 0.24, 4.0
_OURS, _OTHER = "#c2185b", "#8a94a6"


def plot(speed: Speed) -> str:
    """Return the ratios of both passes to torch's layer as reproducible SVG text."""
    from matplotlib.figure import Figure

    shapes = list(dict.fromkeys(row.shape for row in speed.rows))
    groups = [[row for row in speed.rows if row.shape == shape] for shape in shapes]
    heights = [len(group) for group in groups]
    figure = Figure(figsize=(7.0, _BAR_INCHES * sum(heights) + 0.9 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, shape, group in zip(panels[:, 0], shapes, groups, strict=True):
        _draw(axes, group)
        axes.set_title(f"{shape}, {speed.dtype}, {speed.device}", loc="left", fontsize=9)
    panels[-1, 0].set_xlabel("time of forward and backward, as a multiple of the first row's")
    return svg_text(figure, "affdiv-bench")


def _draw(axes: object, rows: list[Row]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    places = range(len(rows))
    medians = [row.ratio["both"].median for row in rows]
    below = [row.ratio["both"].median - row.ratio["both"].lower for row in rows]
    above = [row.ratio["both"].upper - row.ratio["both"].median for row in rows]
    axes.barh(places, medians, xerr=[below, above], color=[_OURS if row.ours else _OTHER for row in rows], height=0.7)
    for place, value in zip(places, medians, strict=True):
        axes.annotate(f"{value:.3f}", (min(value, _MOST_SHOWN), place), (4, 5), textcoords="offset points", fontsize=6)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(places, [row.provider for row in rows], fontsize=7)
    axes.set_xlim(0, min(_MOST_SHOWN, 1.15 * max(row.ratio["both"].upper for row in rows)) * 1.08)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
