"""Convert Matplotlib figures to inline SVG with the page's colours and fonts, unique ids, and no date.

The output depends only on the figure: the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from verify.report.palette import FAINT, INK, markers

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def style(ink: str = INK, faint: str = FAINT) -> Iterator[None]:
    """A context that sets colours and fonts for drawing, and restores Matplotlib's settings afterwards.

    The default colours are placeholders, which ``inline`` replaces.
    """
    chosen = {INK: ink, FAINT: faint}
    with matplotlib.rc_context({name: chosen.get(value, value) for name, value in _STYLE.items()}):
        yield


def pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF page in vector form, with text as text and no date."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return buffer.getvalue()


def inline(figure: Figure, name: str, alternative: str) -> str:
    """Return the figure as an ``<svg>`` element named ``name``, with the alternative text ``alternative``."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    for marker, variable in markers().items():
        text = text.replace(marker, variable)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font: bold ([\d.]+)px [^;\"]*", r"font-size: \1px; font-weight: 600", text)
    return _head(text, alternative)


def _head(text: str, alternative: str) -> str:
    """Give the root element a responsive size and a description for screen readers."""
    root, rest = text.split(">", 1)
    root = re.sub(r'\s(width|height|version)="[^"]*"', "", root)
    return f'{root} role="img" aria-label="{escape(alternative)}">{rest}'
