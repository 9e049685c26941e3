"""Small random lengths for the sizes of a layer, such that no window lies entirely outside its tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from sympy import Expr

from derive.algebra.index import Index
from derive.algebra.nodes import Divides, IndexedSum, Within
from derive.forward_map import BATCH, Layer
from verify.checks.cases import Draw
from verify.checks.layer_files.formula import Formula

LARGEST_BATCH = 5
_LARGEST = 5
_LARGEST_OFFSET = 2
_DEAREST = 20_000  # most products in one evaluation of the update kernel
_TRIES = 400


def draw_sizes(layer: Layer, random: Draw, batch: int | None = None) -> dict[str, int]:
    """Return a length for every size: within the bounds of the draw, and cheap and non-trivial if possible.

    For a layer with windows, half of the draws also contain an entry outside its tensor, if possible.
    """
    outside = bool(random.whole(0, 1))
    best: tuple[int, dict[str, int]] = (-1, {})
    for tried in range(_TRIES):
        sizes = _draw(layer, random, batch)
        worth = _worth(layer, sizes, outside)
        if _cost(layer, sizes) > _DEAREST:
            worth -= 10
        if worth > best[0] or not best[1]:
            best = worth, sizes
        if worth == 2 or (tried > _TRIES // 4 and worth == 1):
            break
    return best[1]


def _draw(layer: Layer, random: Draw, batch: int | None) -> dict[str, int]:
    sizes = {}
    for symbol in layer.sizes:
        if symbol == BATCH.size:
            sizes[symbol.name] = batch if batch is not None else random.whole(1, LARGEST_BATCH)
        elif symbol.is_positive:
            sizes[symbol.name] = random.whole(random.least, max(random.least, min(random.largest, _LARGEST)))
        else:
            sizes[symbol.name] = random.whole(0, _LARGEST_OFFSET)
    return sizes


def _worth(layer: Layer, sizes: dict[str, int], outside: bool) -> int:
    """Return 2 if every guard holds somewhere and, if ``outside``, one also fails somewhere; 1 if all hold; else 0."""
    one = {**sizes, BATCH.size.name: 1}
    formula = Formula(layer, {"": torch.zeros((), dtype=torch.float64)}, {}, one)
    held = [formula.value(guard).tensor for guard in _guards(layer)]
    if not all(bool((h > 0).any()) for h in held):
        return 0
    return 2 if not held or not outside or any(bool((h == 0).any()) for h in held) else 1


def _guards(layer: Layer) -> list[Expr]:
    """Return the guards on positions computed from indices; those on looked-up integers hold by construction."""
    found = {g for e in _expressions(layer) for g in e.atoms(Within, Divides)}
    return sorted((g for g in found if not _reads(g)), key=str)


def _reads(guard: Expr) -> bool:
    from sympy import Indexed

    return bool(guard.atoms(Indexed))


def _expressions(layer: Layer) -> list[Expr]:
    return [*(d.expression for d in layer.definitions), layer.output.expression]


def _cost(layer: Layer, sizes: dict[str, int]) -> int:
    """Return the number of terms of the update kernel's most expensive sum, over all pairs of outputs."""
    output = math.prod(_length(i.size, sizes) for i in layer.output.indices)
    return output**2 * max((_summed(e, sizes) for e in _expressions(layer)), default=1)


def _summed(expression: Expr, sizes: dict[str, int]) -> int:
    lengths = [math.prod(_length(i.size, sizes) for i in bound) for bound in _bound(expression)]
    return max(lengths, default=1)


def _bound(expression: Expr) -> Iterator[tuple[Index, ...]]:
    for total in expression.atoms(IndexedSum):
        yield total.bound


def _length(size: Expr, sizes: dict[str, int]) -> int:
    return int(size.subs({s: sizes[s.name] for s in size.free_symbols}))
