"""What mkdocstrings calls: formulas in docstrings become code, for Markdown would read their brackets as links."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

FORMULA = re.compile(r"^(?:(.*?: )?)(\w+\[[\w, ]+\] = .*)$", re.M)


class Formulas(Extension):
    """Puts formulas such as ``z[s,i] = f[s]*x[s,i]`` between backquotes."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = FORMULA.sub(lambda m: f"{m[1] or ''}`{m[2]}`", obj.docstring.value)
