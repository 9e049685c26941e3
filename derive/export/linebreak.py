r"""Break long displayed formulas into lines of a given width.

A line ends before a sign between terms, at the lowest bracket depth that fills it well; if there is none, between two
wide factors, never between a coefficient and its product. Brackets open at a break get fixed sizes, since ``\left`` and
``\right`` must be on the same line. A fraction or root wider than a line is rewritten first: ``\frac{A}{B}`` as
``\frac{1}{B} (A)`` and ``\sqrt{A}`` as ``(A)^{1/2}``. Anything that still does not fit (one very long name) is scaled
down.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from derive.export.tokens import Piece, pieces

LINE_WIDTH = 400.0
_INDENT = 20.0
_FILLED = 0.5
_NARROW = 0.12
_SHORT = 0.8
_SPLITS_SHORT = 20


@dataclass
class _Line:
    start: int
    stop: int


def break_lines(source: str, available: float = LINE_WIDTH) -> list[str]:
    """Return the lines of a formula, each at most ``available`` points wide by estimate; later lines are indented."""
    row = _narrowed(pieces(source), available - _INDENT)
    if sum(piece.width for piece in row) <= available:
        return [source]
    lines = _fill(row, available)
    partner = _partners(row)
    return [_write(row, line, partner, available) for line in lines]


def _narrowed(row: list[Piece], available: float) -> list[Piece]:
    """Rewrite every piece that is wider than a line into narrower ones, if possible."""
    out: list[Piece] = []
    for piece in row:
        rewritten = _rewrite(piece, available) if piece.width > available else None
        out += [piece] if rewritten is None else _narrowed(pieces(rewritten), available)
    return out


def _rewrite(piece: Piece, available: float) -> str | None:
    """Return a fraction or root that is too wide as a product of brackets, or None."""
    match = re.match(r"\\(frac|sqrt)(?=\{)", piece.latex)
    if not match:
        return None
    first, rest = _group(piece.latex, match.end())
    if match[1] == "sqrt":
        return None if rest else rf"\left( {first} \right)^{{1/2}}"
    below, scripts = _group(piece.latex, len(piece.latex) - len(rest))
    if scripts:
        return None
    if sum(p.width for p in pieces(below)) > available:
        return rf"\left( {first} \right) \left( {below} \right)^{{-1}}"
    return rf"\frac{{1}}{{{below}}} \left( {first} \right)"


def _group(source: str, start: int) -> tuple[str, str]:
    """Return the content of the braces that open at ``start``, and what follows them."""
    depth, at = 0, start
    while True:
        depth += (source[at] == "{") - (source[at] == "}")
        at += 2 if source[at] == "\\" else 1
        if depth == 0:
            return source[start + 1 : at - 1], source[at:]


def _fill(row: list[Piece], available: float) -> list[_Line]:
    lines: list[_Line] = []
    short = _short_groups(row, available)
    start, room = 0, available
    while start < len(row):
        stop = _next_break(row, start, room, short)
        lines.append(_Line(start, stop))
        start, room = stop, available - _INDENT
    return lines


def _next_break(row: list[Piece], start: int, room: float, short: set[int]) -> int:
    """Return the end of the line that starts at ``start``: the best break that fits, or else the first break."""
    used, depth = 0.0, 0
    choices: list[tuple[int, float, int]] = []
    for position in range(start, len(row)):
        piece = row[position]
        allowed = position > start and _may_break(row, position)
        if allowed and (piece.role == "term" or not _cuts_coefficient(row, position, room)):
            if used > room:
                return _best(choices, room) if choices else position
            penalty = 2 * depth + (0 if piece.role == "term" else 3) + (_SPLITS_SHORT if position in short else 0)
            choices.append((penalty, used, position))
        used += piece.width
        depth += {"open": 1, "close": -1}.get(piece.role, 0)
        if used > room and choices:
            return _best(choices, room)
    return len(row)


def _best(choices: list[tuple[int, float, int]], room: float) -> int:
    """Return the break with the least penalty among those that fill the line, and of these the last."""
    whole = [choice for choice in choices if choice[0] < _SPLITS_SHORT] or choices
    full = [choice for choice in whole if choice[1] >= _FILLED * room] or whole
    return min(full, key=lambda choice: (choice[0], -choice[1]))[2]


def _short_groups(row: list[Piece], room: float) -> set[int]:
    """Return the positions inside bracket pairs that are short enough to stay on one line."""
    inside: set[int] = set()
    ends = [0.0, *itertools.accumulate(piece.width for piece in row)]
    for start, stop in _partners(row).items():
        if start < stop and ends[stop + 1] - ends[start] < _SHORT * room:
            inside |= set(range(start + 1, stop + 1))
    return inside


def _cuts_coefficient(row: list[Piece], position: int, room: float) -> bool:
    """Return whether a break here separates a coefficient, or another narrow factor, from the rest of its product."""
    before, after = _side(row, position - 1, -1), _side(row, position, 1)
    entries = any("_{" in piece.latex and not piece.latex.startswith((r"\frac", r"\sqrt")) for piece in before)
    narrow = _NARROW * room
    return not entries or any(sum(piece.width for piece in side) < narrow for side in (before, after))


def _side(row: list[Piece], position: int, way: int) -> list[Piece]:
    """Return the pieces of a product on one side of a break, up to the sign, sum or bracket that ends it.

    The search stops at a bracket pair, which is wide enough already.
    """
    side: list[Piece] = []
    outer, inner = ("open", "close") if way < 0 else ("close", "open")
    while 0 <= position < len(row):
        piece = row[position]
        if piece.role in ("term", outer) or (way < 0 and piece.latex.startswith(r"\sum")):
            break
        side.append(piece)
        if piece.role == inner:
            return [*side, Piece("x_{}", float("inf"))]
        position += way
    return side


def _may_break(row: list[Piece], position: int) -> bool:
    """Return whether a line may end before this piece: at a sign between terms, or between two factors."""
    before, piece = row[position - 1], row[position]
    if piece.role == "term":
        return True
    if piece.glued or before.role in ("open", "term") or piece.role == "close":
        return False
    if not (_complete(before) and _complete(piece)):
        return False
    return before.role == "close" or piece.role == "open" or before.tall or len(piece.latex) > 1


def _complete(piece: Piece) -> bool:
    """Return whether a piece is a complete factor rather than an operator that needs its neighbour."""
    bare = piece.latex.startswith((r"\sum", r"\cdot", r"\mid", r"\le", r"\lVert", r"\rVert", r"\max", r"\min"))
    return not bare and piece.latex not in {"<", ",", ";", "=", "/", "'", "-", "+"}


def _partners(row: list[Piece]) -> dict[int, int]:
    """Return the position of the other bracket of every bracket."""
    partner: dict[int, int] = {}
    stack: list[int] = []
    for position, piece in enumerate(row):
        if piece.role == "open":
            stack.append(position)
        elif piece.role == "close":
            other = stack.pop()
            partner[position], partner[other] = other, position
    return partner


def _write(row: list[Piece], line: _Line, partner: dict[int, int], available: float) -> str:
    written = " ".join(_bracket(row, p, line, partner) for p in range(line.start, line.stop))
    wide = sum(piece.width for piece in row[line.start : line.stop])
    if line.start > 0:
        wide += _INDENT
        times = row[line.start].role != "term"
        written = r"\quad " + (r"\times " if times else "") + written
    if wide > available * 1.03:
        return rf"\resizebox{{{available:.0f}pt}}{{!}}{{$\displaystyle {written}$}}"
    return written


def _bracket(row: list[Piece], position: int, line: _Line, partner: dict[int, int]) -> str:
    piece = row[position]
    if piece.role not in ("open", "close"):
        return piece.latex
    whole = line.start <= partner[position] < line.stop
    if whole:
        return ("\\left" if piece.role == "open" else "\\right") + piece.latex + piece.scripts
    size = r"\bigg" if piece.tall else r"\big"
    return size + ("l" if piece.role == "open" else "r") + piece.latex + piece.scripts
