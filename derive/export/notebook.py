"""The representations of a Derivation, a CancellingMap or a Step in a notebook."""

from __future__ import annotations

from derive.export.blocks import Equation
from derive.export.html import render
from derive.export.latex import blocks_of
from derive.record import CancellingMap, Derivation, Step


def latex_cell(obj: Derivation | CancellingMap | Step) -> str:
    """Return the equations as displayed LaTeX without labels, since notebooks render only maths."""
    equations = [block for block in blocks_of(obj) if isinstance(block, Equation)]
    rows = " \\\\\n".join(f"{e.left} &= " + " = ".join(e.rights) for e in equations)
    return f"$$\\begin{{aligned}}\n{rows}\n\\end{{aligned}}$$"


def html_cell(obj: Derivation | CancellingMap | Step) -> str:
    """Return words and equations as HTML with MathML."""
    return f"<div>{render(blocks_of(obj))}</div>"
