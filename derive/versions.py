"""The toolkit's version, the versions it was tested with, and a warning if another version is installed.

Results for each environment: paper_notes/results/versions.md, written by tests/versions.sh.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"  # of all packages, the generated one included

_TOLD = "AFFINE_DIVERGENCE_VERSIONS_TOLD"
Range = tuple[tuple[int, int], tuple[int, int]]

TESTED: Mapping[str, Range] = {  # the first and the last minor version
    "Python": ((3, 11), (3, 12)),
    "numpy": ((2, 4), (2, 5)),
    "sympy": ((1, 14), (1, 14)),
    "torch": ((2, 11), (2, 14)),
    "triton": ((3, 6), (3, 8)),
}


class UntestedVersionWarning(UserWarning):
    """A version that the toolkit was not tested with is installed."""


def untested(installed: Mapping[str, str]) -> Iterator[str]:
    """Yield a phrase for each installed version outside the tested range; skip a version that cannot be read."""
    for name, text in installed.items():
        first, last = TESTED[name]
        parts = text.split(".")[:2]
        if not all(part.isdigit() for part in parts) or first <= tuple(map(int, parts)) <= last:
            continue
        yield f"{name} {text} (tested: {_said(first)} to {_said(last)})"


def warn_of_untested() -> None:
    """Warn once of all installed versions outside the tested range; processes that this one starts stay quiet."""
    found = ", ".join(untested(_installed()))
    if found and os.environ.get(_TOLD) != found:
        os.environ[_TOLD] = found
        text = f"affine-divergence was not tested with {found}; if results look wrong, install a tested version"
        warnings.warn(text, UntestedVersionWarning, stacklevel=3)


def _installed() -> dict[str, str]:
    """Return the installed versions of the tested packages, without importing them."""
    found = {"Python": ".".join(map(str, sys.version_info[:3]))}
    for name in TESTED:
        try:
            found[name] = version(name) if name != "Python" else found[name]
        except PackageNotFoundError:
            continue
    return found


def _said(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
