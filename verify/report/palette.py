"""The pen of each method: the same colour and dash pattern in every plot, for light and dark pages.

Plots are drawn in placeholder colours that ``svg`` replaces by CSS variables, so that one plot serves light and dark
pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

INK, FAINT = "#010101", "#020202"
PAPER_INK, PAPER_FAINT = "#1d1c1a", "#d9d5cc"  # on a printed page


@dataclass(frozen=True)
class Pen:
    """A method's line: placeholder colour, colours on a light and a dark page, dash pattern, and width in points."""

    method: str
    marker: str
    light: str
    dark: str
    dashes: tuple[float, ...]
    width: float

    @property
    def variable(self) -> str:
        """The name of the CSS variable that holds the colour."""
        return f"--pen-{self.method}"

    @property
    def linestyle(self) -> tuple[float, tuple[float, ...] | None]:
        """The dash pattern in Matplotlib's form."""
        return (0, self.dashes or None)

    @property
    def dasharray(self) -> str:
        """The dash pattern in SVG's form."""
        return " ".join(f"{self.width * d:g}" for d in self.dashes) or "none"


PENS = {
    pen.method: pen
    for pen in (
        Pen("none", "#03a001", "#6b7280", "#9aa3b2", (), 1.6),
        Pen("batch-norm", "#03a002", "#b45f06", "#f0a45b", (5, 1.5), 1.6),
        Pen("layer-norm", "#03a003", "#1d6fb8", "#6db3f2", (3, 1.5), 1.6),
        Pen("rms-norm", "#03a004", "#0f7f6c", "#4fd0b5", (1, 1.2), 1.9),
        Pen("norm-like", "#03a005", "#7a3fb0", "#c49bf0", (6, 1.5, 1, 1.5), 2.0),
        Pen("affine-like", "#03a006", "#c2185b", "#ff7aa8", (), 2.4),
    )
}


SPARE = tuple(
    Pen(f"spare-{number}", f"#04a0{number:02d}", light, dark, dashes, 1.7)
    for number, (light, dark, dashes) in enumerate(
        (
            ("#8a5a00", "#e0b050", ()),
            ("#2f6f9f", "#7fc0ee", (4, 1.5)),
            ("#3f7d20", "#9ad06f", (1.5, 1.2)),
            ("#a03a2c", "#f09a8c", (6, 1.5, 1, 1.5)),
            ("#5a4fb0", "#b0a6f5", (3, 1.2)),
            ("#00777a", "#5fd0d2", (8, 2)),
            ("#8c3b74", "#e39bd0", (2, 1, 5, 1)),
            ("#55606b", "#b4bec9", (1, 2)),
        ),
        start=1,
    )
)


def pens_for(labels: Sequence[str]) -> dict[str, Pen]:
    """Return a pen for each label, no two alike.

    A method has its own pen; ``method, update`` has the method's colour and a dash pattern for the update rule. Other
    labels get spare colours in order; when these run out, other dash patterns, then other widths.
    """
    heads = {label: label.partition(", ")[0] for label in labels}
    rules = sorted({label.partition(", ")[2] for label in labels})
    others = list(dict.fromkeys(heads[label] for label in labels if heads[label] not in PENS))
    pens = {}
    for label, head in heads.items():
        rule = rules.index(label.partition(", ")[2])
        pen = PENS.get(head) or _varied(SPARE[others.index(head) % len(SPARE)], others.index(head) // len(SPARE))
        pens[label] = pen if len(rules) == 1 else _dashed(pen, rule)
    return pens


def _dashed(pen: Pen, number: int) -> Pen:
    """Return a pen with the numbered dash pattern, and a larger width when the patterns run out."""
    return replace(pen, dashes=SPARE[number % len(SPARE)].dashes, width=pen.width + 0.8 * (number // len(SPARE)))


def _varied(pen: Pen, number: int) -> Pen:
    """Return a spare pen, unchanged for number 0, else with another dash pattern."""
    return _dashed(pen, SPARE.index(pen) + number) if number else pen


def on_paper(pens: Mapping[str, Pen]) -> dict[str, Pen]:
    """Return the pens with the colours of a light page instead of placeholders."""
    return {label: replace(pen, marker=pen.light) for label, pen in pens.items()}


def markers() -> dict[str, str]:
    """Return the CSS value for each placeholder colour."""
    pens = (*PENS.values(), *SPARE)
    return {INK: "var(--ink)", FAINT: "var(--rule)"} | {p.marker: f"var({p.variable})" for p in pens}
