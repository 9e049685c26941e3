"""The place of each key and each value in a TOML text, which ``tomllib`` does not report.

``places`` reads a text that ``tomllib`` has accepted, so it need not check syntax, only skip over it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\n,]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^\s,\]}#]+(?: [0-9][^\s,\]}#]*)?")
_DEEPEST = 6  # names in a path; the deepest of a layer has four, ``input.t.axes[0]``
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_CODE_LENGTHS = {"u": 4, "U": 8}


@dataclass(frozen=True)
class Place:
    """The offsets in the file of a key and of a value; for a string, the offset of each of its characters."""

    key: Sequence[int]
    value: Sequence[int]


def places(source: str) -> dict[Path, Place]:
    """Return the place of every key (path of names) and array element (path ending in its number) of a valid text.

    A text nested too deeply to read has no places.
    """
    reader = _Reader(source)
    try:
        reader.document()
    except RecursionError:
        return {}
    return reader.found


def read_string(source: str, start: int) -> tuple[str, list[int], int]:
    """Return the string literal at ``start``, the offset of each of its characters, and the offset behind it."""
    quote = source[start]
    mark = quote * 3 if source.startswith(quote * 3, start) else quote
    k = start + len(mark)
    if len(mark) == 3 and source.startswith("\n", k):
        k += 1
    characters: list[str] = []
    offsets: list[int] = []
    while k < len(source):
        if source.startswith(mark, k) and not (len(mark) == 3 and source.startswith(mark, k + 1)):
            break
        character, after = source[k], k + 1
        if character == "\\" and quote == '"':
            character, after = _escape(source, k)
        if character:
            characters.append(character)
            offsets.append(k)
        k = after
    return "".join(characters), offsets, k + len(mark)


def _escape(source: str, k: int) -> tuple[str, int]:
    """Return the character that the escape at ``k`` stands for ('' for a line's end) and the offset behind it."""
    kind = source[k + 1]
    if kind in _ESCAPES:
        return _ESCAPES[kind], k + 2
    if kind in _CODE_LENGTHS:
        end = k + 2 + _CODE_LENGTHS[kind]
        return chr(int(source[k + 2 : end], 16)), end
    end = k + 1
    while end < len(source) and source[end] in " \t\n":
        end += 1
    return "", max(end, k + 2)


class _Reader:
    """Reads the text once; ``at`` is the current offset."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0
        self.found: dict[Path, Place] = {}
        self.counts: dict[Path, int] = {}

    def document(self) -> None:
        """Read the whole text."""
        table: Path = ()
        self.blank()
        while self.at < len(self.source):
            if self.source[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.blank()

    def blank(self) -> None:
        """Skip blanks, commas and comments."""
        match = _BLANK.match(self.source, self.at)
        assert match is not None
        self.at = match.end()

    def header(self) -> Path:
        """Read ``[a.b]`` or ``[[a.b]]`` and return the path of the table."""
        array = self.source.startswith("[[", self.at)
        self.at += 2 if array else 1
        keys, offsets = self.keys()
        self.at += 2 if array else 1
        path: Path = tuple(keys[:_DEEPEST])
        self.found.setdefault(path, Place(offsets, offsets))
        if array:
            self.counts[path] = self.counts.get(path, -1) + 1
            path = (*path, self.counts[path])
        return path

    def keys(self) -> tuple[list[str], list[int]]:
        """Read a dotted key; return its names and the offsets of the last one's characters."""
        keys: list[str] = []
        while True:
            self.blank()
            if self.source[self.at] in "\"'":
                key, offsets, self.at = read_string(self.source, self.at)
            else:
                match = _BARE_KEY.match(self.source, self.at)
                assert match is not None
                key, offsets, self.at = match.group(), list(range(*match.span())), match.end()
            keys.append(key)
            self.blank()
            if not self.source.startswith(".", self.at):
                return keys, offsets
            self.at += 1

    def pair(self, table: Path) -> None:
        """Read ``key = value`` of a table."""
        keys, offsets = self.keys()
        self.at += 1  # the equals sign
        for k in range(1, min(len(keys), _DEEPEST)):
            self.found.setdefault((*table, *keys[:k]), Place(offsets, offsets))
        self.value((*table, *keys), offsets)

    def value(self, path: Path, key: Sequence[int]) -> None:
        """Read a value and record its place; all values nested too deep share one path, which no layer has."""
        path = path[:_DEEPEST]
        self.blank()
        start, first = self.at, self.source[self.at]
        if first in "\"'":
            _, offsets, self.at = read_string(self.source, start)
            self.found[path] = Place(key, offsets or [start])
            return
        self.found[path] = Place(key, [start])
        if first in "[{":
            self.collection(path, "]" if first == "[" else "}")
            return
        match = _SCALAR.match(self.source, start)
        assert match is not None
        self.at = match.end()
        self.found[path] = Place(key, list(range(*match.span())))

    def collection(self, path: Path, closing: str) -> None:
        """Read an array or an inline table."""
        self.at += 1
        number = 0
        self.blank()
        while self.source[self.at] != closing:
            if closing == "}":
                self.pair(path)
            else:
                self.value((*path, number), [self.at])
            number += 1
            self.blank()
        self.at += 1
