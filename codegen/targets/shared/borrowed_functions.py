"""The functions of the torch target over the maps of another target's files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codegen.printing.naming import AngleFamily, Family, branch
from codegen.targets.torch import target as torch_target

_TITLE = '"""The generated maps as functions'


def borrowed_functions(families: Sequence[Family | AngleFamily], prefix: str, title: str) -> str:
    """Return ``functional.py`` with the maps taken from the files whose names begin with ``prefix``.

    ``title`` ends its first sentence, which begins with "The generated maps as functions".
    """
    homes = {branch(plan, plan is f.with_bias)["module"] for f in families for plan in f.plans}
    lines = torch_target.functions_text(families).splitlines()
    lines = [
        re.sub(r"(?<=^from \.)\w+", lambda m: f"{prefix}{m[0]}" if m[0] in homes else m[0], line) for line in lines
    ]
    places = [k for k, line in enumerate(lines) if line.startswith("from .")]
    for place, line in zip(places, sorted(lines[k] for k in places), strict=True):
        lines[place] = line
    return "\n".join(lines).replace(f"{_TITLE} of tensors.", f"{_TITLE}{title}.", 1) + "\n"
