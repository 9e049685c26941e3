r"""Escape text of any origin for each format, so that nothing a user wrote can become markup or a command.

In LaTeX, a character without a glyph in the standard fonts is written as its code point, so that no text can stop a run
and no other fonts are needed.
"""

from __future__ import annotations

import html
import re
import unicodedata

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "'": "'",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "√": r"$\surd$",
    "‖": r"$\Vert$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≠": r"$\ne$",
    "∈": r"$\in$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "−": "$-$",
    "⁻": "$^{-}$",
    "\u202f": r"\,",
    **{sign: rf"\textsuperscript{{{digit}}}" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}
_LONG_WORD = 20
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
_SMALL = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi"
_SMALL += " rho sigma tau upsilon phi chi psi omega"
_CAPITAL = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
_COMMANDS = frozenset(_SMALL.split()) | frozenset(_CAPITAL.split())
_BLANKS = re.compile(r"[\s\x00-\x20\x7f]+")
_LABEL = re.compile(r"[^A-Za-z0-9/_.:>-]+")
_MARKDOWN = re.compile(r"[\\`*_\[\]<>#|~$&]|^[-+](?= )|^\d+[.)](?= )|@")


def latex_text(text: str) -> str:
    """Return plain text as LaTeX text; control characters and line breaks become spaces."""
    return re.sub(r"\S+", lambda word: _latex_word(word[0]), _BLANKS.sub(" ", text))


def _latex_word(word: str) -> str:
    """Return a word as LaTeX; a long one, which TeX cannot hyphenate, may break after every few characters."""
    parts = [word[start : start + _LONG_WORD // 2] for start in range(0, len(word), _LONG_WORD // 2)]
    parts = parts if len(word) > _LONG_WORD else [word]
    return r"\allowbreak{}".join("".join(map(_latex_character, part)).replace("--", "-{}-") for part in parts)


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii() or ("\u00c0" <= character <= "\u00ff" and character not in "ÐÞðþ×÷"):
        return " " if unicodedata.category(character) == "Cc" else character
    match = _GREEK.fullmatch(unicodedata.name(character, ""))
    if match:
        name = match[2].lower().replace("lamda", "lambda")
        name = name if match[1] == "SMALL" else name.capitalize()
        if name in _COMMANDS:
            return rf"$\{name}$"
    return f"[U+{ord(character):04X}]"


def latex_code(text: str) -> str:
    """Return plain text as LaTeX text in a typewriter face."""
    return rf"\texttt{{{latex_text(text)}}}"


def label(identifier: str) -> str:
    """Return an equation id as a LaTeX label or an HTML id; unusual characters become dashes."""
    return _LABEL.sub("-", identifier)


def html_text(text: str) -> str:
    """Return plain text as HTML text, also safe in attributes."""
    printable = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return html.escape(printable, quote=True)


def markdown_text(text: str) -> str:
    """Return plain text as GitHub Markdown: special characters are escaped, line breaks removed."""
    return _MARKDOWN.sub(_markdown_mark, " ".join(text.split()))


def _markdown_mark(match: re.Match[str]) -> str:
    """Escape one character for Markdown; an at sign would notify someone even after a backslash."""
    mark = match[0]
    if mark == "@":
        return "&#64;"
    return f"{mark[:-1]}\\{mark[-1]}"
