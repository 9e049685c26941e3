"""How each method is drawn: one colour and one dash pattern wherever it appears, in both colour schemes.

A plot never holds a colour that is seen. It is drawn in marker colours that ``svg`` replaces by CSS variables, so one
picture serves a light and a dark page.
"""

from __future__ import annotations

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


def markers() -> dict[str, str]:
    """Return the CSS value that stands for each marker colour."""
    return {INK: "var(--ink)", FAINT: "var(--rule)"} | {p.marker: f"var({p.variable})" for p in PENS.values()}
