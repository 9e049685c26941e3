"""A piece of a user's text that knows its place in its file, and the error that points at it.

Everything a user writes (a key, an axis, a formula) is carried as an ``Excerpt``, so that every refusal names the file,
the line and the column, shows the line and marks the offending part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from derive.forward_map import LayerError

_WIDTH = 90  # columns of the source line that an error shows


class SpecError(LayerError):
    """A layer's text, or an angle function, that cannot be read.

    ``filename``, ``line`` and ``column`` (both from 1, None where the file as a whole is meant) say where.
    """

    def __init__(self, message: str, filename: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.filename, self.line, self.column = filename, line, column


@dataclass(frozen=True)
class Excerpt:
    """``text``, whose character ``k`` is ``source[offsets[k]]`` in the file ``filename``.

    Without ``source`` the text is its own source; without ``offsets`` all of it begins at the source's start.
    """

    text: str
    filename: str = "<string>"
    source: str | None = None
    offsets: Sequence[int] = ()

    @property
    def quoted(self) -> str:
        """The text in quotes, shortened, with control characters escaped."""
        return quote(self.text)

    def cut(self, start: int, end: int) -> Excerpt:
        """Return the part ``text[start:end]``."""
        source = self.text if self.source is None else self.source
        offsets = [self._offset(k) for k in range(start, end)]
        return Excerpt(self.text[start:end], self.filename, source, offsets)

    def words(self) -> list[Excerpt]:
        """Return the parts between blanks."""
        found, start = [], 0
        for word in self.text.split():
            start = self.text.index(word, start)
            found.append(self.cut(start, start + len(word)))
            start += len(word)
        return found

    def fail(self, problem: str, fix: str, start: int = 0, end: int | None = None) -> NoReturn:
        """Raise a ``SpecError`` that marks ``text[start:end]``."""
        raise self.error(problem, fix, start, end)

    def error(self, problem: str, fix: str, start: int = 0, end: int | None = None) -> SpecError:
        """Return a ``SpecError`` that marks ``text[start:end]`` and names the cause and the fix."""
        source = self.text if self.source is None else self.source
        end = len(self.text) if end is None else end
        first = self._offset(start)
        last = max(self._offset(end - 1) if end > start else first, first)
        line = source.count("\n", 0, first) + 1
        column = first - (source.rfind("\n", 0, first) + 1) + 1
        shown = _marked(source, first, last)
        filename = quote(self.filename, 200)[1:-1]
        message = f"{filename}, line {line}, column {column}: {problem}; {fix}{shown}"
        return SpecError(message, self.filename, line, column)

    def _offset(self, k: int) -> int:
        if self.source is None:
            return min(k, len(self.text))
        if not self.offsets:
            return 0
        return self.offsets[k] if k < len(self.offsets) else self.offsets[-1] + 1


def quote(text: object, longest: int = 40) -> str:
    """Return ``text`` in quotes, one line, printable ASCII, at most ``longest`` characters of it."""
    plain = str(text)
    return ascii(plain if len(plain) <= longest else plain[: longest - 3] + "...")


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return ``"did you mean 'W'? "`` for the known name nearest to ``name``, or an empty string."""
    near = get_close_matches(name[:80], known, n=1, cutoff=0.6)
    if not near:
        near = [k for k in known if k.lower() == name.lower()]
    return f"did you mean {near[0]!r}? " if near else ""


def _marked(source: str, first: int, last: int) -> str:
    """Return the line of ``source[first]`` and below it carets under ``first .. last``, cut to a window of the line."""
    begin = source.rfind("\n", 0, first) + 1
    end = source.find("\n", first)
    end = len(source) if end < 0 else end
    left = begin if first - begin <= _WIDTH * 2 // 3 else first - _WIDTH // 2
    right = min(end, left + _WIDTH)
    line = "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in source[left:right])
    if not line.strip():
        return ""
    carets = max(min(last + 1, right) - first, 1)
    return f"\n    {line}\n    {' ' * (first - left)}{'^' * carets}"
