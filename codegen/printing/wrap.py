"""Line breaks of generated code: prose is filled, Python is broken as ``ruff format`` does."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 120


def fill(text: str, indent: int = 0, hanging: int | None = None) -> str:
    """Return a paragraph filled to the line length; its first line is not indented, the others by ``hanging``."""
    later = " " * (indent if hanging is None else hanging)
    lines = textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).lstrip()


def signature(name: str, arguments: Sequence[str], returns: str, indent: int = 0) -> str:
    """Return the head of a function: on one line, or all arguments on a second line, or one argument per line."""
    pad = " " * indent
    whole = f"def {name}({', '.join(arguments)}) -> {returns}:"
    if len(pad + whole) <= WIDTH:
        return whole
    inner = f"{pad}    {', '.join(arguments)}"
    if len(inner) > WIDTH:
        inner = "\n".join(f"{pad}    {argument}," for argument in arguments)
    return f"def {name}(\n{inner}\n{pad}) -> {returns}:"


def imported(home: str, names: Sequence[str]) -> str:
    """Return an import on one line, which ``places.placed`` breaks if it is too long."""
    return f"from {home} import {', '.join(names)}"


def raised(error: str, message: str, indent: int) -> str:
    """Return a ``raise`` statement; a message that is too long for a line is split between words."""
    pad = " " * indent
    whole = f'raise {error}("{message}")'
    if len(pad + whole) <= WIDTH:
        return whole
    parts = textwrap.wrap(message, WIDTH - indent - 8, break_long_words=False, break_on_hyphens=False)
    spaced = [part + " " for part in parts[:-1]] + parts[-1:]
    inner = "\n".join(f'{pad}    "{part}"' for part in spaced)
    return f"raise {error}(\n{inner}\n{pad})"


def joined(parameters: Sequence[str]) -> str:
    """Return C++ parameters in lines that break only between parameters."""
    return fill(", ".join(p.replace(" ", "\0") for p in parameters), 4, 4).replace("\0", " ")


def comment(text: str) -> list[str]:
    """Return a paragraph as lines that fit after ``// ``."""
    return fill(text, 3).split("\n   ")
