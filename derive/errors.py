"""The base class of all errors that a user's input can cause."""

from __future__ import annotations

import unicodedata

_PLAIN = "\n\t"


class UsageError(ValueError):
    """A value that cannot be used; the text names the value, the cause and the fix. The command line exits with 2.

    The text shows characters that control a terminal, such as an escape in a file's name, in escaped form.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return a text with every character escaped that moves a cursor, sets a colour or reverses the direction."""
    return "".join(c if c in _PLAIN or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
