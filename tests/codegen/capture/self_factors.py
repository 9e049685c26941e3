"""Print the section on self factors of ``captured.md``: ``python -m tests.codegen.capture.self_factors``."""

from __future__ import annotations

from pathlib import Path

import derive
from codegen.capture import capture
from derive.export.text import text
from tests.codegen.capture import modules, more_modules

PAGE = Path(__file__).parents[3] / "paper_notes" / "captured.md"
LONGEST = 400


def names() -> list[str]:
    """Return the modules in the first table of the page."""
    table = PAGE.read_text(encoding="utf-8").split("## ")[0]
    return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]


def line(name: str, shape: str, factor: str) -> str:
    """Return a module's line: the axes of its self factor, and the formula if it is short enough to read."""
    shown = f"`{factor}`" if len(factor) <= LONGEST else f"a formula of {len(factor):,} characters"
    return f"- **{name}** ({shape}): {shown}"


def main() -> None:
    """Capture and derive every module of the page."""
    for name in names():
        found = capture(getattr(modules, name, None) or getattr(more_modules, name))
        factor = derive.effective_update(found).self_factor
        print(line(name, factor.shape, text(factor.expression)))


if __name__ == "__main__":
    main()
