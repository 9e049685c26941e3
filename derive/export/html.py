"""Derivations as one self-contained HTML page: MathML formulas, its own style, no script, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatch

from derive.export import mathml
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
from derive.export.escape import html_text, label

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --soft: #555; --rule: #ccc; --link: #0a4a9e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #161616; --soft: #aaa; --rule: #444; --link: #8ab8ff; }
}
body { font: 1rem/1.5 Georgia, serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
body, math { color: var(--ink); background: var(--paper); }
a { color: var(--link); }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.2; }
.equation { display: flex; align-items: center; gap: 1rem; overflow-x: auto; margin: .6rem 0; }
.equation math { flex: 1; }
.equation a { font: .75rem ui-monospace, monospace; color: var(--soft); text-decoration: none; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); }
"""


def page(blocks: Sequence[Block]) -> str:
    """Return blocks as a whole page."""
    title = next((block.prose for block in blocks if isinstance(block, Heading) and block.level == 0), ("Derivations",))
    plain = "".join(html_text(part) for part in title if isinstance(part, str))
    return (
        '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{plain}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{render(blocks)}</body>\n</html>\n"
    )


def render(blocks: Iterable[Block]) -> str:
    """Return blocks as HTML elements, one after the other."""
    return "".join(_block(block) + "\n" for block in blocks)


@singledispatch
def _block(block: Block) -> str:
    raise TypeError(f"no HTML for the block {type(block).__name__}")


@_block.register
def _(block: Heading) -> str:
    level = block.level + 1
    return f"<h{level}>{_prose(block.prose)}</h{level}>"


@_block.register
def _(block: Paragraph) -> str:
    return f"<p>{_prose(block.prose)}</p>"


@_block.register
def _(block: Equation) -> str:
    drawn = mathml.displayed(block)
    if not block.id:
        return f'<div class="equation">{drawn}</div>'
    anchor = html_text(label(block.id))
    return f'<div class="equation" id="{anchor}">{drawn}<a href="#{anchor}">{html_text(block.id)}</a></div>'


@_block.register
def _(block: Items) -> str:
    return "<ul>" + "".join(f"<li>{_prose(entry)}</li>" for entry in block.entries) + "</ul>"


@_block.register
def _(block: Table) -> str:
    head = "".join(f'<th scope="col">{_prose(cell)}</th>' for cell in block.header)
    rows = "".join("<tr>" + "".join(f"<td>{_prose(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


@_block.register
def _(block: Figures) -> str:
    return "".join(
        f'<figure><img src="{html_text(name)}" alt=""><figcaption>{_prose(caption)}</figcaption></figure>'
        for name, caption in block.entries
    )


@_block.register
def _(block: Bibliography) -> str:
    entries = "".join(f'<li id="{html_text(label(key))}">{html_text(text)}</li>' for key, text in block.entries)
    return f"<h2>References</h2><ol>{entries}</ol>"


def _prose(parts: Prose) -> str:
    return "".join(_inline(part) for part in parts)


def _inline(part: Inline) -> str:
    if isinstance(part, Math):
        return mathml.formula(part.latex)
    if isinstance(part, Code):
        return f"<code>{html_text(part.text)}</code>"
    if isinstance(part, Cite):
        return f' [<a href="#{html_text(label(part.key))}">{html_text(part.key)}</a>]'
    if isinstance(part, Ref):
        return f'<a href="#{html_text(label(part.id))}">{html_text(part.id)}</a>'
    return html_text(part)
