"""Fractional designs: a balanced part of a product of lists, for sweeps whose full product costs too much.

    [design]
    kind = "fraction"
    cells = 24                         # the number of combinations of the factors' values to run
    factors = ["widths", "depths"]     # by default every list of more than one value, except the four named below

Every cell is crossed with all methods, learning rates, angles and seeds, so comparisons are made within a cell. The
cells are chosen to overlap as little as possible in pairs. The overlap of two cells is ``(sum of the numbers of values
of the factors in which they agree)^2``; its total is smallest for an orthogonal array (Xu, Technometrics 44, 2002). The
search starts from 20 fixed random designs and repeats the best exchange of one cell until none improves. So every
value, and every pair of values of two factors, occurs about equally often.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from derive.errors import UsageError

FRACTION = "fraction"
CROSSED = ("methods", "learning_rates", "angles", "seeds")
MOST_CELLS = 1_000  # most combinations in the full product
_STARTS = 20
_KEYS = ("kind", "cells", "factors")
_EXAMPLE = 'write [design] and, below it, kind = "fraction" and cells = 24'
Error = Callable[[str], UsageError]


def fraction(levels: Sequence[int], cells: int) -> list[tuple[int, ...]]:
    """Return the sorted cells, each as value indices of the factors; ``levels`` are the factors' numbers of values."""
    every = np.stack([axis.ravel() for axis in np.indices(tuple(levels))], axis=1)
    common = np.stack([((every == cell) @ np.array(levels)) ** 2 for cell in every])
    starts = [np.array(sorted(range(len(every)), key=partial(_drawn, start))[:cells]) for start in range(_STARTS)]
    chosen = min((_exchanged(start, common) for start in starts), key=lambda own: common[np.ix_(own, own)].sum())
    return [tuple(int(level) for level in every[one]) for one in sorted(chosen)]


def _drawn(start: int, cell: int) -> bytes:
    """Return the sort key of a cell in a random start, independent of library versions."""
    return hashlib.sha256(f"{start}/{cell}".encode()).digest()


def _exchanged(chosen: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return the cells after exchanging one cell at a time, the best exchange first, until none reduces the overlap."""
    while True:
        shared = common[chosen].sum(axis=0)
        saved = (shared[chosen] - common.diagonal()[chosen])[:, None] - shared + common[chosen]
        saved[:, chosen] = 0
        out, into = np.unravel_index(saved.argmax(), saved.shape)
        if saved[out, into] <= 0:
            return chosen
        chosen[out] = into


def read(given: Any, lists: Mapping[str, Sequence[Any]], error: Error) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the keys of a design's factors and the combinations of their values to run.

    Args:
        given: the value of ``design`` in an experiment file.
        lists: the lists of the file by their keys.
        error: turns a message into an exception that names the file; raised for an invalid design.
    """
    if not isinstance(given, dict):
        raise error(f"{given!r} is not a table; {_EXAMPLE}")
    unknown = next((key for key in given if key not in _KEYS), None)
    if unknown is not None:
        raise error(f"{unknown!r} is not known; the keys are {', '.join(_KEYS)}")
    if given.get("kind") != FRACTION:
        raise error(f"the kind {given.get('kind')!r} is not known; {_EXAMPLE}")
    possible = [key for key in lists if key not in CROSSED and len(lists[key]) > 1]
    factors = given.get("factors", possible)
    if not isinstance(factors, list) or any(factor not in possible for factor in factors) or not factors:
        raise error(
            f"the factors {factors!r} must be lists of more than one value; such lists are {', '.join(possible)}"
        )
    levels = [len(lists[factor]) for factor in factors]
    cells, most = given.get("cells"), math.prod(levels)
    if most > MOST_CELLS:
        raise error(f"the factors have {most} combinations, more than {MOST_CELLS}; shorten their lists")
    if isinstance(cells, bool) or not isinstance(cells, int) or not 0 < cells <= most:
        raise error(f"cells = {cells!r} is not a valid number of cells; give a whole number from 1 to {most}")
    chosen = fraction(levels, cells)
    return tuple(factors), [tuple(lists[f][k] for f, k in zip(factors, cell, strict=True)) for cell in chosen]
