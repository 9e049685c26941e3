r"""Derivations as LaTeX: a fragment to include, or one complete document that pdfLaTeX compiles.

A fragment needs ``\usepackage{amsmath,amssymb,graphicx,array,longtable}``. Every equation of a step carries its id as a
label: ``\label{eq:affine/self-factor}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch

from sympy import Expr

from derive.export.blocks import (
    Bibliography,
    Block,
    Cite,
    Code,
    Equation,
    Figures,
    Heading,
    Inline,
    Items,
    Math,
    Paragraph,
    Prose,
    Ref,
    Table,
)
from derive.export.escape import label, latex_code, latex_text
from derive.export.linebreak import LINE_WIDTH, break_lines
from derive.export.maps import map_blocks
from derive.export.notation import latex as expression_latex
from derive.export.outline import Chapter, derivation_blocks, document_blocks
from derive.export.pdf import compile_pdf as compile_pdf
from derive.export.steps import step_blocks
from derive.export.symbols import notation_for
from derive.export.tokens import width
from derive.forward_map import Layer
from derive.record import CancellingMap, Derivation, Step

_RELATION = 14.0  # points of an equals sign and the space around it
_QUAD = 10.0
_SMALL = r"{\small\setlength{\tabcolsep}{4pt}"
_GAP = 0.019  # of a line: the space between two columns of given widths
_SECTIONS = {1: "section", 2: "subsection", 3: "subsubsection"}
_PREAMBLE = r"""\documentclass[10pt,a4paper]{article}
\usepackage[utf8]{inputenc}
\usepackage[margin=2.5cm]{geometry}
\usepackage{amsmath,amssymb,graphicx,array,longtable,textcomp}
\ifdefined\pdfinfoomitdate\pdfinfoomitdate=1\pdftrailerid{}\fi
\allowdisplaybreaks
\setlength{\emergencystretch}{3em}
"""
_LINKS = "\\usepackage[hidelinks,pdfusetitle]{hyperref}\n"  # of a long document
_SMALL = r"{\small\setlength{\tabcolsep}{4pt}"  # of a table with given widths
_CONTENTS = "\\setcounter{tocdepth}{1}\n\\tableofcontents\n\\clearpage\n"


def latex(obj: object) -> str:
    """Return LaTeX: inline maths for an expression, a fragment for a Step, Derivation, CancellingMap or Layer.

    Raises TypeError for anything else.
    """
    if isinstance(obj, Expr):
        return expression_latex(obj)
    if isinstance(obj, Layer):
        notation = notation_for(obj)
        return f"{notation(obj.output.entry)} = {notation(obj.output.expression)}"
    return render(blocks_of(obj))


def blocks_of(obj: object) -> list[Block]:
    """Return the blocks of a Derivation, a CancellingMap or a Step; raise TypeError for anything else."""
    if isinstance(obj, Derivation):
        return derivation_blocks(obj)
    if isinstance(obj, CancellingMap):
        return map_blocks(obj)
    if isinstance(obj, Step):
        return step_blocks([obj])
    raise TypeError(f"no LaTeX for {type(obj).__name__}; give an expression, Layer, Step, Derivation or CancellingMap")


def fragment(derivation: Derivation) -> str:
    """Return a derivation as LaTeX to include in another document."""
    return render(derivation_blocks(derivation))


def document(items: Sequence[Derivation | Chapter]) -> str:
    """Return one complete document: set-up, a section per layer, what is ours, bibliography."""
    return page(document_blocks(items))


def page(blocks: Sequence[Block], contents: bool = False) -> str:
    """Return the blocks of a document as a complete LaTeX file with links, and with a table of contents if wanted."""
    title = next(block for block in blocks if isinstance(block, Heading) and block.level == 0)
    links, table = (_LINKS, _CONTENTS) if contents else ("", "")
    named = f"\\title{{{_prose(title.prose)}}}\n\\author{{}}\n\\date{{}}\n"
    head = f"{_PREAMBLE}{links}{named}\\begin{{document}}\n\\maketitle\n{table}"
    body = render(block for block in blocks if block is not title)
    return f"{head}{body}\\end{{document}}\n"


def render(blocks: Iterable[Block]) -> str:
    """Return blocks as LaTeX, one after the other."""
    return "".join(_block(block) for block in blocks)


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"no LaTeX for the block {type(block).__name__}")


@_block.register
def _(block: Heading) -> str:
    return f"\n\\{_SECTIONS[max(block.level, 1)]}{{{_prose(block.prose)}}}\n\n"


@_block.register
def _(block: Paragraph) -> str:
    return f"{_prose(block.prose)}\n\n" if not block.leads else f"{_prose(block.prose)}\n"


@_block.register
def _(block: Equation) -> str:
    """Return the equation over as many lines as it needs; the number is on the last one."""
    rows = _rows(block)
    if block.id is None:
        return "\\begin{align*}\n" + " \\\\\n".join(rows) + "\n\\end{align*}\n"
    numbered = " \\notag \\\\\n".join(rows)
    return f"\\begin{{align}}\n{numbered} \\label{{eq:{label(block.id)}}}\n\\end{{align}}\n"


def _rows(block: Equation) -> list[str]:
    """Return the aligned rows of an equation; a wide left side has its own rows."""
    beside = width(block.left)
    stacked = beside > LINE_WIDTH / 3
    available = LINE_WIDTH - _RELATION - (_QUAD if stacked else beside)
    relation, follow = (r"& \quad = ", r"& \quad ") if stacked else ("&= ", "& ")
    rows = [f"& {line}" for line in break_lines(block.left, LINE_WIDTH)] if stacked else []
    for right in block.rights:
        first, *more = break_lines(right, available)
        rows += [relation + first, *(follow + line for line in more)]
    if not stacked:
        rows[0] = f"{block.left} {rows[0]}"
    return rows


@_block.register
def _(block: Items) -> str:
    texts = map(_prose, block.entries)
    entries = "".join(f"\\item{'{}' if text.startswith('[') else ''} {text}\n" for text in texts)  # [ opens a label
    return f"\\begin{{itemize}}\n{entries}\\end{{itemize}}\n\n"


@_block.register
def _(block: Table) -> str:
    columns = len(block.header)
    widths = _shares(block.widths) or ((0.27, 0.65) if columns == 2 else (0.92 / columns,) * columns)
    shape = "".join(rf">{{\raggedright\arraybackslash}}p{{{w:.3f}\linewidth}}" for w in widths)
    rows = [" & ".join(_cell(cell) for cell in row) + r" \\" for row in block.rows]
    head = " & ".join(rf"\textbf{{{_prose(cell)}}}" for cell in block.header) + r" \\"
    lines = [rf"\begin{{longtable}}{{@{{}}{shape}@{{}}}}", r"\hline", head, r"\hline", r"\endhead", *rows]
    opened = _SMALL if block.widths else "{"
    stretched = [opened, r"\renewcommand{\arraystretch}{1.35}", *lines, r"\hline", r"\end{longtable}", "}"]
    return "\n".join(stretched) + "\n\n"


def _shares(widths: Sequence[float]) -> list[float]:
    """Return the columns' shares of the line without the gaps between them."""
    left = 1 - _GAP * (len(widths) - 1)
    return [left * width / sum(widths) for width in widths]


def _cell(cell: Prose) -> str:
    """Return a cell; its fractions are in display style, since there is room."""
    return "".join(rf"$\displaystyle {part.latex}$" if isinstance(part, Math) else _inline(part) for part in cell)


@_block.register
def _(block: Figures) -> str:
    """Return the pictures in rows; a page break never separates a picture from its caption, nor divides a row."""
    share = 0.97 / block.across
    boxes = [
        f"\\begin{{minipage}}[t]{{{share:.3f}\\linewidth}}\n\\includegraphics[width=\\linewidth]{{{name}}}\n\n"
        f"{{\\footnotesize {_prose(caption)}\\par}}\n\\end{{minipage}}"
        for name, caption in block.entries
    ]
    rows = [boxes[start : start + block.across] for start in range(0, len(boxes), block.across)]
    told = ("\\noindent\n" + "\\hfill\n".join(row) + "\n\n\\bigskip\n" for row in rows)
    return f"\\medskip\\nopagebreak\n{''.join(told)}\n"


@_block.register
def _(block: Bibliography) -> str:
    entries = "".join(f"\\bibitem{{{label(key)}}} {latex_text(text)}\n" for key, text in block.entries)
    return f"\n\\begin{{thebibliography}}{{99}}\n{entries}\\end{{thebibliography}}\n"


def _prose(parts: Prose) -> str:
    return "".join(_inline(part) for part in parts)


def _inline(part: Inline) -> str:
    if isinstance(part, Math):
        return f"${part.latex}$"
    if isinstance(part, Code):
        return latex_code(part.text)
    if isinstance(part, Cite):
        return rf"~\cite{{{label(part.key)}}}"
    if isinstance(part, Ref):
        return rf"\eqref{{eq:{label(part.id)}}}"
    return latex_text(part)
