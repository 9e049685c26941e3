"""A diagnosis as one HTML document: self factors, shares, drift, advice, unjudged layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from verify.diagnosis.advice import best_map, map_latex
from verify.diagnosis.findings.finding import MILD
from verify.diagnosis.record import Diagnosis, LayerDiagnosis
from verify.diagnosis.show import columns_of, remarks, told
from verify.report.mathematics import mathml
from verify.report.numbers import number, percent
from verify.report.page import environment
from verify.report.palette import FAINT, PENS
from verify.report.plots import Picture
from verify.report.svg import inline, style

_LONGEST, _LONGEST_NARROW = 34, 20  # most letters of a layer's name at an axis
_NARROW = 3.6  # inches; on a page 390 pixels wide, 8-point text then keeps its size
_OWN, _CROSS, _ELSEWHERE = (PENS[name].marker for name in ("affine-like", "layer-norm", "none"))


def render(found: Diagnosis, after: Diagnosis | None = None) -> str:
    """Return the self-contained page of a diagnosis, with that of the converted model below."""
    parts = [_part("The model as it is", found, "before")]
    if after is not None:
        parts.append(_part("After conversion", after, "after"))
    return environment().get_template("diagnosis.html.jinja").render(parts=parts, found=found, pens=list(PENS.values()))


def _part(title: str, found: Diagnosis, name: str) -> dict[str, object]:
    """Return the template values of one diagnosis."""
    columns = columns_of(found.layers)
    laws = {layer.law: best for layer in found.layers if layer.advice and (best := best_map(layer.law))}
    return {
        "title": title,
        "diagnosis": found,
        "pictures": pictures(found, name),
        "remarks": [line for line in remarks(found) if not line.startswith("advice ")],
        "findings": [(finding, told(finding)) for finding in found.findings],
        "mild": MILD,
        "columns": columns,
        "maps": [
            (best[0], mathml(map_latex(law), display=True), [m for m in found.layers if m.law == law and m.advice])
            for law, best in laws.items()
        ],
    }


def pictures(found: Diagnosis, part: str) -> list[Picture]:
    """Return the plots of one diagnosis; ``part`` makes their ids unique on a page with two diagnoses."""
    judged = [layer for layer in found.layers if layer.shares is not None]
    panels: list[
        tuple[str, str, str, str, Sequence[LayerDiagnosis], Callable[[Axes, Sequence[LayerDiagnosis]], None]]
    ] = [
        (
            "factors",
            "Self factors",
            "self factor (logarithmic)",
            "Smallest to largest self factor of each layer (line) and its median (dot), logarithmic. A dot without a "
            "line is ideal: every sample moves by the same factor. A factor of 0 is drawn at the left edge.",
            found.layers,
            _factors,
        ),
        (
            "shares",
            "Contributions to the gradient's step",
            "share of the layer's own change",
            "Shares of the squared change of each layer's activation: by each sample's own gradient (left, with the "
            "number), by other samples (middle), by other uses of the same parameters (right).",
            judged,
            _shares,
        ),
    ]
    whole = [layer for layer in found.layers if layer.parts is not None and layer.parts.own is not None]
    panels.append(
        (
            "parts",
            "Contributions to the real step",
            "share of the real change",
            "Shares of the real change of each layer’s activation under the optimiser: by its own parameters (left, "
            "with the number), by its changed input (middle), by both (right). A negative share opposes the step.",
            whole,
            _parts,
        )
    )
    if any(layer.drift is not None for layer in found.layers):
        steps = len(found.losses) - 1
        caption = (
            f"Median self factor after {steps} virtual steps of rate {found.rate:g} over the first one; 1: no change."
        )
        label = "median self factor, after over before"
        moving = [layer for layer in found.layers if layer.drift is not None]
        panels.append(("drift", "Drift", label, caption, moving, _drift))
    return [_panel(f"{part}-{name}", *rest) for name, *rest in panels if rest[2]]  # type: ignore[arg-type]


def _panel(
    name: str,
    title: str,
    label: str,
    caption: str,
    layers: Sequence[LayerDiagnosis],
    draw: Callable[[Axes, Sequence[LayerDiagnosis]], None],
) -> Picture:
    """Return a plot in two versions, for wide and for narrow pages; the page shows one of them."""
    drawn = ""
    for kind, width, size, longest in (("wide", 6.4, 9.5, _LONGEST), ("narrow", _NARROW, 8.0, _LONGEST_NARROW)):
        with style():
            figure = Figure(figsize=(width, 0.95 + 0.24 * len(layers)), layout="constrained")
            figure.suptitle(title, x=0.01, ha="left", fontsize=size + 1, fontweight="bold")
            axes = figure.subplots()
            axes.set_xlabel(label, fontsize=size)
            axes.set_ylabel("layer", fontsize=size)
            draw(axes, layers)
            axes.set_yticks(range(len(layers)), [_short(layer.name, longest) for layer in layers])
            axes.tick_params(labelsize=size)
            if kind == "narrow" and axes.get_xscale() == "linear":
                axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylim(len(layers) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            drawn += f'<div class="{kind}">{inline(figure, f"{name}-{kind}", f"{title}. {caption}")}</div>'
    return Picture(Markup(drawn), caption)


def _short(name: str, longest: int) -> str:
    """Return a layer's name, shortened for an axis, without characters that Matplotlib reads as mathematics."""
    shown = name or "(root)"
    return (shown if len(shown) <= longest else "…" + shown[1 - longest :]).replace("$", r"\$")


def _factors(axes: Axes, layers: Sequence[LayerDiagnosis]) -> None:
    positive = [v for m in layers for v in (m.factors.minimum, m.factors.median, m.factors.maximum) if v > 0]
    least, most = (min(positive), max(positive)) if positive else (1.0, 1.0)
    floor = least / 1.5
    for place, layer in enumerate(layers):
        s = layer.factors
        axes.plot([max(s.minimum, floor), max(s.maximum, floor)], [place, place], color=_OWN, linewidth=2.4)
        axes.plot([max(s.median, floor)], [place], "o", color=_OWN, markersize=5)
    axes.set_xscale("log")
    axes.set_xlim(floor, most * 1.5)
    _plain(axes)


def _shares(axes: Axes, layers: Sequence[LayerDiagnosis]) -> None:
    for place, layer in enumerate(layers):
        left, shares = 0.0, layer.shares
        assert shares is not None
        for share, colour in ((shares.own, _OWN), (shares.cross, _CROSS), (shares.elsewhere, _ELSEWHERE)):
            axes.barh(place, share, left=left, color=colour, height=0.62)
            left += share
        axes.text(1.02, place, percent(shares.own), va="center", fontsize=8)
    axes.set_xlim(0, 1.18)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _parts(axes: Axes, layers: Sequence[LayerDiagnosis]) -> None:
    for place, layer in enumerate(layers):
        parts = layer.parts
        assert parts is not None
        ends = {True: 0.0, False: 0.0}  # positive and negative shares are stacked separately
        for share, colour in ((parts.own, _OWN), (parts.upstream, _CROSS), (parts.both, _ELSEWHERE)):
            value = share or 0.0
            axes.barh(place, value, left=ends[value > 0], color=colour, height=0.62)
            ends[value > 0] += value
        axes.text(ends[True] + 0.02, place, percent(parts.own), va="center", fontsize=8)
    axes.margins(x=0.12)
    axes.axvline(0, color=FAINT, linewidth=1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _drift(axes: Axes, layers: Sequence[LayerDiagnosis]) -> None:
    axes.axvline(1, color=FAINT, linewidth=1.2)
    for place, layer in enumerate(layers):
        axes.plot([1, layer.drift or 1], [place, place], color=_OWN, linewidth=1.2)
        axes.plot([layer.drift or 1], [place], "o", color=_OWN, markersize=5)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
