"""Render templates: every variable must be defined, and a file ends in one line break."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from codegen.printing.wrap import fill, imported, raised, signature

SHARED = Path(__file__).parents[1] / "targets" / "templates"
Render = Callable[[str, Mapping[str, Any]], str]


def renderer(*folders: Path, filters: Mapping[str, Callable[..., Any]] | None = None, **words: Any) -> Render:
    """Return a function from the name of a template in one of these folders, and its context, to text.

    Templates can also use the functions that break lines (``wrap``), ``words`` and ``filters``.
    """
    environment = Environment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(fill=fill, signature=signature, imported=imported, raised=raised, texts=_texts, **words)
    environment.filters.update(filters or {})

    def render(template: str, context: Mapping[str, Any]) -> str:
        return re.sub(r"\n+\Z", "\n", environment.get_template(template).render(context))

    return render


def _texts(names: Iterable[str]) -> str:
    """Return the text of a tuple of strings."""
    found = [f'"{name}"' for name in names]
    return f"({', '.join(found)}{',' * (len(found) == 1)})"
