"""Text for streams of any encoding: characters that the encoding lacks are replaced by ASCII."""

from __future__ import annotations

import codecs
import io
import unicodedata
from typing import TextIO

_NAME = "affdiv-plain"
_PLAIN = {
    "–": "-", "—": "-", "−": "-", "→": "->", "←": "<-", "×": "x", "·": "*", "…": "..", "✗": "x", "✓": "ok", "’": "'",
    "‘": "'", "“": '"', "”": '"', "\u202f": " ", "\u00a0": " ", "∞": "inf", "≤": "<=", "≥": ">=", "≠": "!=", "‖": "||",
    "⁻": "^-", "│": "|", "─": "-", "━": "-", "╭": "+", "╮": "+", "╰": "+", "╯": "+",
}  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def plain(text: str) -> str:
    """Return text in ASCII that means the same: ``10⁻⁷`` as ``10^-7``, an unknown sign as ``?``."""
    result = ""
    for place, sign in enumerate(text):
        if sign in _PLAIN:
            result += _PLAIN[sign]
        elif sign.translate(_RAISED) != sign:
            before = text[place - 1] if place else ""
            raised = before == "⁻" or before.translate(_RAISED) != before
            result += ("" if raised else "^") + sign.translate(_RAISED)
        else:
            close = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
            result += close or ("?" if not unicodedata.combining(sign) else "")
    return result


def _replace(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    return plain(problem.object[problem.start : problem.end]), problem.end


def write_any(*streams: TextIO) -> None:
    """Let streams write text with characters that their encoding lacks, instead of raising UnicodeEncodeError."""
    codecs.register_error(_NAME, _replace)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors != _NAME:
            stream.reconfigure(errors=_NAME)
