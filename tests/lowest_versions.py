"""Print the lowest version of every dependency in pyproject.toml, and of Triton, as pins, one per line."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def lowest(project: dict[str, object]) -> list[str]:
    """Return ``name==version.*`` for each dependency and for Triton, from the range that each declares."""
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(d for d in extras["test"] if d.startswith("triton"))]  # type: ignore[misc,index]
    found = (re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", text) for text in declared)
    return [f"{m[1]}=={m[2]}.*" for m in found if m]


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"])))
