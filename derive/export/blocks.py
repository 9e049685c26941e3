"""The parts of a document, independent of the format: headings, paragraphs, equations, tables and lists.

Text in a block is plain text of any origin; every renderer escapes it. Maths is LaTeX written by ``notation``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Math:
    """Inline maths, in LaTeX."""

    latex: str


@dataclass(frozen=True)
class Code:
    """Inline text in a typewriter face."""

    text: str


@dataclass(frozen=True)
class Cite:
    """A citation of an entry of ``references``."""

    key: str


@dataclass(frozen=True)
class Ref:
    """A reference to an equation of the same document by its id."""

    id: str


Inline = str | Math | Code | Cite | Ref
Prose = tuple[Inline, ...]


@dataclass(frozen=True)
class Heading:
    """A heading; level 0 is the document's title, level 1 a section."""

    level: int
    prose: Prose


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; ``leads`` means that the equation after it belongs to the same sentence."""

    prose: Prose
    leads: bool = False


@dataclass(frozen=True)
class Equation:
    """``left = right = ...``; ``id`` is the stable equation id, or None for an equation without references."""

    id: str | None
    left: str
    rights: tuple[str, ...]

    @property
    def latex(self) -> str:
        """The equation on one line."""
        return " = ".join((self.left, *self.rights))

    @property
    def aligned(self) -> str:
        """The equation with each side on a line of its own, if there are several."""
        if len(self.rights) == 1:
            return self.latex
        rows = " \\\\\n".join(f"&= {right}" for right in self.rights)
        return f"\\begin{{aligned}}\n{self.left} {rows}\n\\end{{aligned}}"


@dataclass(frozen=True)
class Items:
    """A bulleted list."""

    entries: tuple[Prose, ...]


@dataclass(frozen=True)
class Table:
    """A table with one header row; ``widths`` are the columns' shares of the line if these differ."""

    header: tuple[Prose, ...]
    rows: tuple[tuple[Prose, ...], ...]
    widths: tuple[float, ...] = ()


@dataclass(frozen=True)
class Figures:
    """Pictures in files beside the document, each with its caption, ``across`` of them in a row."""

    entries: tuple[tuple[str, Prose], ...]
    across: int = 2


@dataclass(frozen=True)
class Bibliography:
    """The cited works: key and plain text each."""

    entries: tuple[tuple[str, str], ...]


Block = Heading | Paragraph | Equation | Items | Table | Figures | Bibliography


def prose(template: str, *parts: Inline) -> Prose:
    """Return text with each ``{}`` of the template replaced by the next part."""
    texts = template.split("{}")
    if len(texts) != len(parts) + 1:
        raise TypeError(f"{len(texts) - 1} places for {len(parts)} parts in {template!r}")
    mixed: list[Inline] = [texts[0]]
    for part, text in zip(parts, texts[1:], strict=True):
        mixed += [part, text]
    return tuple(part for part in mixed if part != "")


def sentence(text: str) -> str:
    """Return a rule or note as a sentence, with a capital letter and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ":")) else text + "."
