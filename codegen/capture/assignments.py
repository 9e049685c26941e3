"""The sizes at which a factory is called: small, above one, distinct within a call, and with distinct products.

Some factories accept only certain sizes (the number of heads must divide the width). If the factory refuses the first
row of sizes, rows in which the larger sizes are multiples of the smaller ones are tried.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

CALLS = 6
"""The number of size assignments at which a factory is called; a formula in the sizes must hold at all of them."""
_MOST_TRIES = 60
_POOL = (2, 3, 4, 5, 6, 7, 9)
_FACTORS = ((2, 3), (3, 2), (2, 2, 3), (3, 3), (4, 2), (2, 4), (5, 2), (2, 5))


def rows(names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield assignments of sizes by name, first unrelated ones, then those in which sizes divide each other."""
    if not names:
        yield {}
        return
    draw, count = random.Random(len(names)), len(names)
    pool = _POOL if count <= len(_POOL) else tuple(range(2, count + 4))
    seen: set[tuple[int, ...]] = set()
    if count == 1:
        yield from ({names[0]: value} for value in (2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24))
        return
    for _ in range(_MOST_TRIES):
        row = tuple(draw.sample(pool, count))
        if row not in seen:
            seen.add(row)
            yield dict(zip(names, row, strict=True))


def divisible_rows(names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield assignments in which the sizes divide each other, in every order of the names."""
    for order in itertools.islice(itertools.permutations(names), 6):
        for steps in _FACTORS:
            row, product = {}, 1
            for name, step in zip(order, itertools.chain(steps, itertools.repeat(2)), strict=False):
                product *= step
                row[name] = product
            yield {name: row[name] for name in names}


def small_rows(names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield the smallest sizes, for the proof: all 2, then one 3 at a time, then those that divide each other."""
    yield dict.fromkeys(names, 2)
    for chosen in names:
        yield {name: 3 if name == chosen else 2 for name in names}
    if len(names) > 1:
        yield from divisible_rows(names)
