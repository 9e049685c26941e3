"""Derivations as MathML, made from the LaTeX by latex2mathml: formulas that a browser shows without any script.

Where latex2mathml is not installed a formula shows its LaTeX as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from derive.export.blocks import Block, Equation
from derive.export.escape import html_text, label

_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_UNKNOWN = (  # what latex2mathml does not know, in words that it does
    (r"\lVert", r"\Vert"),
    (r"\rVert", r"\Vert"),
)


@lru_cache(maxsize=4096)
def formula(latex: str) -> str:
    """Return an inline formula as one ``<math>`` element."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return f'<math xmlns="{_NAMESPACE}" display="inline"><mtext>{html_text(latex)}</mtext></math>'
    for unknown, known in _UNKNOWN:
        latex = latex.replace(unknown, known)
    return str(convert(latex))


def displayed(block: Equation) -> str:
    """Return an equation as one ``<math>`` element, a table with one row per right side."""
    lefts = (block.left, *("" for _ in block.rights[1:]))
    rows = "".join(
        f"<mtr><mtd>{_inside(left)}</mtd><mtd><mo>=</mo>{_inside(right)}</mtd></mtr>"
        for left, right in zip(lefts, block.rights, strict=True)
    )
    table = f'<mtable displaystyle="true" columnalign="right left">{rows}</mtable>'
    return f'<math xmlns="{_NAMESPACE}" display="block">{table}</math>'


def _inside(latex: str) -> str:
    """Return what stands inside the ``<math>`` element of a formula."""
    return formula(latex).split(">", 1)[1].removesuffix("</math>") if latex else ""


def equation(block: Equation) -> str:
    """Return a displayed equation with its id."""
    drawn = displayed(block)
    return f'<div id="{html_text(label(block.id))}">{drawn}</div>' if block.id else f"<div>{drawn}</div>"


def render(blocks: Iterable[Block]) -> str:
    """Return the equations of blocks as MathML, each in an element with its id; the prose is left out."""
    drawn = "\n".join(equation(block) for block in blocks if isinstance(block, Equation))
    return f'<div xmlns="http://www.w3.org/1999/xhtml">\n{drawn}\n</div>\n'
