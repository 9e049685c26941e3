"""Templates to text: every hole must be filled, and a file ends in one line break."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from codegen.targets.torch.wrap import fill, raised, signature

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return the text of a template of this folder."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(fill=fill, signature=signature, raised=raised)
    return re.sub(r"\n+\Z", "\n", environment.get_template(template).render(context))
