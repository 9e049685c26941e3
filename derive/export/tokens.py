r"""LaTeX maths as a flat row of pieces with estimated widths, so that a long equation can be broken.

Widths are estimates in points at 10 pt Computer Modern, in display style. A bracket pair ``\left( ... \right)`` becomes
an opening and a closing piece with its content between them; a fraction, a root or a name with scripts is one piece.

Reads only the LaTeX that ``notation`` writes; it is not a general parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_ARGUMENTS = {
    "frac": 2,
    "sqrt": 1,
    "mathit": 1,
    "mathrm": 1,
    "operatorname": 1,
    "text": 1,
    "bar": 1,
    "hat": 1,
    "tilde": 1,
}
_WIDTHS = {
    "sum": 14.5,
    "cdot": 7.3,
    "mid": 8.3,
    "le": 13.3,
    "lVert": 5.0,
    "rVert": 5.0,
    "_": 5.0,
    ",": 1.7,
    "partial": 6.0,
}
_LETTER, _DIGIT, _OPERATOR, _BRACKET, _SCRIPT = 5.9, 5.0, 12.3, 6.5, 0.8
_WORDS = {"tanh", "sinh", "cosh", "sin", "cos", "tan", "exp", "log", "max", "min", "atan", "infty", "operatorname"}


@dataclass(frozen=True)
class Piece:
    """A part of a formula that stays together.

    ``role`` is ``term`` (a sign between terms), ``open`` or ``close`` (of a bracket pair) or ``atom``; ``scripts``
    follow a closing bracket; ``tall`` marks a piece that needs large brackets around it; ``glued`` an opening bracket
    that belongs to the function or derivative before it.
    """

    latex: str
    width: float
    role: str = "atom"
    scripts: str = ""
    tall: bool = False
    glued: bool = False


def pieces(source: str) -> list[Piece]:
    """Return the pieces of a formula, with brackets split at every depth."""
    return list(_pieces(source))


@lru_cache(maxsize=10_000)
def _pieces(source: str) -> tuple[Piece, ...]:
    """Read a formula once and cache it: the enclosing formulas measure nested parts again."""
    return tuple(_Reader(source).row(""))


def width(source: str) -> float:
    """Return the estimated width of a formula in points."""
    return sum(piece.width for piece in pieces(source))


class _Reader:
    """One pass over a formula from left to right."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def row(self, until: str) -> list[Piece]:
        """Read pieces up to ``until`` (or to the end of the formula if it is empty)."""
        out: list[Piece] = []
        while self._at < len(self._source):
            if until and self._source.startswith(until, self._at):
                break
            if self._source[self._at].isspace():
                self._at += 1
                continue
            self._piece(out)
        return out

    def _piece(self, out: list[Piece]) -> None:
        character = self._source[self._at]
        if self._source.startswith(r"\left", self._at) and not self._source.startswith(r"\leftarrow", self._at):
            out += self._pair()
        elif character == "{":
            out += self._inner(self._braced(), glued=self._at > 0 and not self._source[self._at - 1].isspace())
        elif character in "+-" and out and out[-1].role in ("atom", "close"):
            self._at += 1
            out.append(Piece(character, _OPERATOR, "term"))
        else:
            atom = self._command() if character == "\\" else self._character()
            out.append(self._with_scripts(atom))

    def _inner(self, source: str, glued: bool) -> list[Piece]:
        inner = _Reader(source).row("")
        return [replace(inner[0], glued=glued), *inner[1:]] if inner else []

    def _pair(self) -> list[Piece]:
        glued = self._at > 0 and not self._source[self._at - 1].isspace()
        opening = self._delimiter(r"\left")
        content = self.row(r"\right")
        closing = self._delimiter(r"\right")
        scripts = self._with_scripts(Piece("", 0.0))
        tall = any(piece.tall for piece in content)
        return [
            Piece(opening, _BRACKET, "open", tall=tall, glued=glued),
            *content,
            Piece(closing, _BRACKET + scripts.width, "close", scripts=scripts.latex, tall=tall),
        ]

    def _delimiter(self, command: str) -> str:
        self._at += len(command)
        while self._source[self._at].isspace():
            self._at += 1
        end = _COMMAND.match(self._source, self._at).end() if self._source[self._at] == "\\" else self._at + 1  # type: ignore[union-attr]
        delimiter, self._at = self._source[self._at : end], end
        return delimiter

    def _braced(self) -> str:
        """Read a group in braces and return what is inside them."""
        depth, start = 0, self._at + 1
        while True:
            character = self._source[self._at]
            self._at += 2 if character == "\\" else 1
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return self._source[start : self._at - 1]

    def _command(self) -> Piece:
        match = _COMMAND.match(self._source, self._at)
        assert match
        self._at = match.end()
        name = match[1]
        arguments = [self._braced() for _ in range(_ARGUMENTS.get(name, 0))]
        latex = match[0] + "".join(f"{{{a}}}" for a in arguments)
        if name == "frac":
            return Piece(latex, max(map(width, arguments)) + 3.0, tall=True)
        if name == "sqrt":
            return Piece(latex, width(arguments[0]) + 9.5, tall=any(p.tall for p in pieces(arguments[0])))
        if arguments:
            return Piece(latex, width(arguments[0]) + 0.5)
        letters = 5.0 * len(name) + 2.0 if name in _WORDS else _WIDTHS.get(name, 6.5)
        return Piece(latex, letters, tall=name == "sum")

    def _character(self) -> Piece:
        character = self._source[self._at]
        self._at += 1
        if character.isdigit():
            return Piece(character, _DIGIT)
        if character in "<>=":
            return Piece(character, 13.4)
        if character in "+-":
            return Piece(character, 7.8)
        return Piece(character, {",": 4.5, ";": 4.5, "'": 3.0, "/": 5.0, ".": 2.8, "|": 2.8}.get(character, _LETTER))

    def _with_scripts(self, piece: Piece) -> Piece:
        """Return a piece with the primes, subscripts and superscripts that follow it."""
        above = below = primes = 0.0
        while self._at < len(self._source) and self._source[self._at] in "_^'":
            mark = self._source[self._at]
            start = self._at
            self._at += 1
            if mark == "'":
                primes += 3.0
            else:
                script = _SCRIPT * width(self._braced())
                above, below = (max(above, script), below) if mark == "^" else (above, max(below, script))
            piece = replace(piece, latex=piece.latex + self._source[start : self._at])
        if piece.latex.startswith(r"\sum"):
            return replace(piece, width=max(piece.width, below, above) + 1.7)
        return replace(piece, width=piece.width + max(above + primes, below))
