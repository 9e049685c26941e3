"""Derivations as MathML, made from the LaTeX by latex2mathml: formulas that a browser shows without any script.

Without latex2mathml, a formula is shown as LaTeX text.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from xml.etree import ElementTree

from derive.export.blocks import Block, Equation
from derive.export.escape import html_text, label

_NAMESPACE = "http://www.w3.org/1998/Math/MathML"
_UNKNOWN = (  # commands that latex2mathml lacks, and replacements
    (r"\lVert", r"\Vert"),
    (r"\rVert", r"\Vert"),
)


# Browsers implement MathML Core: alignment by style, not by attribute.
_ALIGNED = "text-align: {}; padding: .2em 0"
_PRIMES = frozenset("\u2032\u2033\u2034\u2057")


@lru_cache(maxsize=4096)
def formula(latex: str, display: bool = False) -> str:
    """Return a formula as one ``<math>`` element, inline or displayed (with limits below a sum)."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        layout = "block" if display else "inline"
        return f'<math xmlns="{_NAMESPACE}" display="{layout}"><mtext>{html_text(latex)}</mtext></math>'

    for unknown, known in _UNKNOWN:
        latex = latex.replace(unknown, known)
    root = ElementTree.fromstring(convert(latex, display="block" if display else "inline"))
    for element in list(root.iter()):
        _lower_prime(element)
    ElementTree.register_namespace("", _NAMESPACE)
    return ElementTree.tostring(root, encoding="unicode")


def _lower_prime(element: ElementTree.Element) -> None:
    """Put a prime beside its letter: the character is raised already, and would be too small as a superscript."""
    kind = element.tag.rpartition("}")[2]
    if kind not in ("msup", "msubsup") or element[-1].text not in _PRIMES:
        return
    prime = element[-1]
    prime.tag = f"{{{_NAMESPACE}}}mo"
    prime.attrib |= {"lspace": "0", "rspace": "0"}
    if kind == "msup":
        element.tag = f"{{{_NAMESPACE}}}mrow"
        return
    base, below, _ = element
    primed = ElementTree.Element(f"{{{_NAMESPACE}}}mrow")
    primed.extend([base, prime])
    element[:] = [primed, below]
    element.tag = f"{{{_NAMESPACE}}}msub"


def displayed(block: Equation) -> str:
    """Return an equation as one ``<math>`` element, a table with one row per right side, aligned at their signs."""
    lefts = (block.left, *("" for _ in block.rights[1:]))
    rows = "".join(
        f"<mtr>{_cell(_inside(left), 'right')}{_cell(f'<mo>=</mo>{_inside(right)}', 'left')}</mtr>"
        for left, right in zip(lefts, block.rights, strict=True)
    )
    table = f'<mtable displaystyle="true" columnalign="right left">{rows}</mtable>'
    return f'<math xmlns="{_NAMESPACE}" display="block">{table}</math>'


def _cell(content: str, side: str) -> str:
    return f'<mtd style="{_ALIGNED.format(side)}">{content}</mtd>'


def _inside(latex: str) -> str:
    """Return the content of the ``<math>`` element of a displayed formula."""
    return formula(latex, display=True).split(">", 1)[1].removesuffix("</math>") if latex else ""


def equation(block: Equation) -> str:
    """Return a displayed equation with its id."""
    drawn = displayed(block)
    return f'<div id="{html_text(label(block.id))}">{drawn}</div>' if block.id else f"<div>{drawn}</div>"


def render(blocks: Iterable[Block]) -> str:
    """Return the equations of blocks as MathML, each in an element with its id, without the prose."""
    drawn = "\n".join(equation(block) for block in blocks if isinstance(block, Equation))
    return f'<div xmlns="http://www.w3.org/1999/xhtml">\n{drawn}\n</div>\n'
