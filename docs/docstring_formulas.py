"""An extension of mkdocstrings: formulas in docstrings become code, since Markdown would read brackets as links."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

FORMULA = re.compile(r"^(?:(.*?: )?)(\w+\[[\w, ]+\] = .*)$", re.M)


class Formulas(Extension):
    """Puts formulas such as ``z[s,i] = f[s]*x[s,i]`` between backquotes."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of a parsed object."""
        if obj.docstring is not None:
            obj.docstring.value = FORMULA.sub(lambda m: f"{m[1] or ''}`{m[2]}`", obj.docstring.value)
