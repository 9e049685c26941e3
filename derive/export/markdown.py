"""Derivations as Markdown that GitHub renders: displayed maths in ``math`` fences, inline maths between $` and `$.

GitHub leaves LaTeX in these two forms unchanged; between plain dollars it would read underscores as emphasis. The
equation's id precedes it as an anchor.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

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
from derive.export.escape import html_text, label, markdown_text


def render(blocks: Iterable[Block]) -> str:
    """Return blocks as GitHub Markdown."""
    return "\n".join(_block(block) for block in blocks)


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"no Markdown for the block {type(block).__name__}")


@_block.register
def _(block: Heading) -> str:
    return f"{'#' * (block.level + 1)} {_prose(block.prose)}\n"


@_block.register
def _(block: Paragraph) -> str:
    return f"{_prose(block.prose)}\n"


@_block.register
def _(block: Equation) -> str:
    anchor = f'<a id="{html_text(label(block.id))}"></a>`{block.id.replace("`", "")}`\n\n' if block.id else ""
    return f"{anchor}```math\n{_allowed(block.aligned)}\n```\n"


def _allowed(latex: str) -> str:
    """Return maths without our one macro that GitHub forbids."""
    return latex.replace(r"\operatorname{", r"\mathrm{")


@_block.register
def _(block: Items) -> str:
    return "".join(f"* {_prose(entry)}\n" for entry in block.entries)


@_block.register
def _(block: Table) -> str:
    lines = [_row(block.header), "|" + "---|" * len(block.header), *(_row(row) for row in block.rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[Prose]) -> str:
    return "| " + " | ".join(_prose(cell).replace("\n", " ") for cell in cells) + " |"


@_block.register
def _(block: Figures) -> str:
    return "\n".join(f"![]({name})\n\n{_prose(caption)}\n" for name, caption in block.entries)


@_block.register
def _(block: Bibliography) -> str:
    entries = (f'* <a id="{html_text(label(key))}"></a>{markdown_text(text)}\n' for key, text in block.entries)
    return "## References\n\n" + "".join(entries)


def _prose(parts: Prose) -> str:
    return "".join(_inline(part) for part in parts)


def _inline(part: Inline) -> str:
    if isinstance(part, Math):
        return f"$`{_allowed(part.latex).replace('|', chr(92) + 'vert ')}`$"
    if isinstance(part, Code):
        return f"<code>{html_text(part.text).replace('|', '&#124;')}</code>"
    if isinstance(part, Cite):
        return f" [[{_short(part.key)}](#{label(part.key)})]"
    if isinstance(part, Ref):
        return f"[{markdown_text(part.id)}](#{label(part.id)})"
    lead, trail = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{lead}{markdown_text(part)}{trail}" if part.strip() else part


def _short(key: str) -> str:
    """Return a citation key as name and year: ``benzing2022gradient`` is ``Benzing 2022``."""
    name = key.rstrip("abcdefghijklmnopqrstuvwxyz")
    return f"{name[:-4].capitalize()} {name[-4:]}"
