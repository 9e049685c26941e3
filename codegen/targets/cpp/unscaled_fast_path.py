"""Fast path: sum the squares of a row unscaled, and scale the row first only if the sum is out of range.

To avoid overflow and underflow, a program divides a row by a power of two near its largest entry before squaring. The
results do not depend on the power. So a scale of 1 works for nearly every row and saves the pass that searches for the
largest entry; ``in_range`` of ``runtime/rows.h`` decides from the sum whether it worked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def with_trial(kernel: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a kernel's context with its first two loops as ``trial`` if they compute a magnitude and sums."""
    loops = kernel.get("loops", [])
    if len(loops) < 2 or not _finds_a_magnitude(loops[0]) or not _only_sums(loops[1]):
        return {**kernel, "trial": None}
    magnitude, squares, *rest = loops
    later = _words([squares["after"], *([*w["lines"], *w["totals"], *w["after"]] for w in rest)])
    again = [line for line in magnitude["after"] if _target(line) in later]
    trial = {
        "peak": magnitude["sums"][0],
        "magnitude": magnitude,
        "squares": squares,
        "in_range": _joined([f"in_range({name})" for name in squares["sums"]]),
        "again": again,
    }
    return {**kernel, "trial": trial, "loops": rest}


def _joined(conditions: list[str]) -> str:
    return " && ".join(conditions) if len(conditions) == 1 else f"({' && '.join(conditions)})"


def _finds_a_magnitude(loop: Mapping[str, Any]) -> bool:
    return len(loop["largest"]) == 1 and loop["sums"] == loop["largest"] and not loop["stores"]


def _only_sums(loop: Mapping[str, Any]) -> bool:
    return bool(loop["sums"]) and not loop["largest"] and not loop["stores"]


def _words(groups: list[list[str]]) -> set[str]:
    return set(re.findall(r"\w+", " ".join(line for lines in groups for line in lines)))


def _target(line: str) -> str:
    return line.split(" = ")[0].split()[-1]
