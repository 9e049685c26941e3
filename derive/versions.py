"""The toolkit's version, which versions it was tested with, and a warning where another one is installed.

What was seen to pass in each environment: paper_notes/results/versions.md, written by tests/versions.sh.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"  # of all packages; the generated one is written with it

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
    """Yield a phrase for each installed version outside what was tested; one that cannot be read is passed over."""
    for name, text in installed.items():
        first, last = TESTED[name]
        parts = text.split(".")[:2]
        if not all(part.isdigit() for part in parts) or first <= tuple(map(int, parts)) <= last:
            continue
        yield f"{name} {text} (tested: {_said(first)} to {_said(last)})"


def warn_of_untested() -> None:
    """Warn once of all installed versions outside what was tested; the processes that this one starts stay quiet."""
    found = ", ".join(untested(_installed()))
    if found and os.environ.get(_TOLD) != found:
        os.environ[_TOLD] = found
        text = f"affine-divergence was not tested with {found}; if results surprise you, install a tested version"
        warnings.warn(text, UntestedVersionWarning, stacklevel=3)


def _installed() -> dict[str, str]:
    """Return the versions of what is installed among what was tested; nothing is imported."""
    found = {"Python": ".".join(map(str, sys.version_info[:3]))}
    for name in TESTED:
        try:
            found[name] = version(name) if name != "Python" else found[name]
        except PackageNotFoundError:
            continue
    return found


def _said(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
