"""How each method is drawn: one colour and one dash pattern wherever it appears, in both colour schemes.

A plot never holds a colour that is seen. It is drawn in marker colours that ``svg`` replaces by CSS variables, so one
picture serves a light and a dark page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

INK, FAINT = "#010101", "#020202"


@dataclass(frozen=True)
class Pen:
    """A method's line: the marker colour, the colours on a light and a dark page, dash pattern and width in points."""

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
        """The dash pattern as Matplotlib takes it."""
        return (0, self.dashes or None)

    @property
    def dasharray(self) -> str:
        """The dash pattern as SVG takes it."""
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
    """Return a pen for each label: a method's own, and spare ones, in order, for what else is drawn."""
    others = [label for label in labels if label not in PENS]
    spare = {label: SPARE[k % len(SPARE)] for k, label in enumerate(others)}
    return {label: PENS.get(label) or spare[label] for label in labels}


def markers() -> dict[str, str]:
    """Return the CSS value that stands for each marker colour."""
    pens = (*PENS.values(), *SPARE)
    return {INK: "var(--ink)", FAINT: "var(--rule)"} | {p.marker: f"var({p.variable})" for p in pens}
