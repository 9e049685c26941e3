"""Sizes at which a layer from a file is timed: the user's, or default ones from small to large.

Features and positions grow together. The axes of a window (indices that a parameter shares with a computed position)
have length three, and offsets are one. An axis read at computed positions is as long as the windows reach.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import sympy
from sympy import Expr, Indexed, Symbol

from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, Within
from derive.errors import UsageError
from derive.forward_map import BATCH, Layer

Sizes = dict[str, int]
_WINDOW, _OFFSET = 3, 1
_LEVELS = (2**14, 2**20, 2**25)  # products of one forward pass
_QUICK = (2**12, 2**15)
_MOST = 2**31 - 1
_WORD = re.compile(r"([A-Za-z_]\w*)=(\d{1,10})")


def default_sizes(layer: Layer, quick: bool) -> list[Sizes]:
    """Return sets of sizes, each larger than the one before, for forward passes of about ``_LEVELS`` products."""
    found: list[Sizes] = []
    for level in _QUICK if quick else _LEVELS:
        best = _scaled(layer, 2)
        for power in range(2, 26):
            sizes = _scaled(layer, round(2 ** (power / 2)))
            if products(layer, sizes) > level:
                break
            best = sizes
        if best not in found:
            found.append(best)
    return found


def parse_sizes(layer: Layer, text: str) -> Sizes:
    """Return the sizes given as text, such as ``B=128:n=512:m=512``; UsageError for any other text."""
    words = [_WORD.fullmatch(word) for word in text.replace(" ", "").split(":")]
    given = {word[1]: int(word[2]) for word in words if word}
    wanted = {s.name: int(bool(s.is_positive)) for s in layer.sizes}
    example = ":".join(f"{name}={64 if least else 1}" for name, least in wanted.items())
    if not all(words) or set(given) != set(wanted):
        raise UsageError(
            f"sizes {text!r} are not those of the layer {layer.name!r}; give every size, such as {example}"
        )
    for name, value in given.items():
        if not wanted[name] <= value <= _MOST:
            raise UsageError(f"sizes {text!r}: {name} is {value}; give a whole number from {wanted[name]} to {_MOST}")
    return given


def text_of(sizes: Mapping[str, int]) -> str:
    """Return sizes in the form that the command line takes."""
    return ":".join(f"{name}={value}" for name, value in sizes.items())


def products(layer: Layer, sizes: Mapping[str, int]) -> int:
    """Return the number of products in the layer's most expensive sum, over all outputs."""
    expressions = [
        *((d.indices, d.expression) for d in layer.definitions),
        (layer.output.indices, layer.output.expression),
    ]
    return max(_length(axes, sizes) * max((_length(b, sizes) for b in _bound(e)), default=1) for axes, e in expressions)


def _bound(expression: Expr) -> list[tuple[Index, ...]]:
    return [total.bound for total in expression.atoms(IndexedSum)]


def _length(indices: tuple[Index, ...], sizes: Mapping[str, int]) -> int:
    return math.prod(_value(i.size, sizes) for i in indices)


def _value(size: Expr, sizes: Mapping[str, int]) -> int:
    return int(size.subs({s: sizes[s.name] for s in size.free_symbols}))


def _scaled(layer: Layer, scale: int) -> Sizes:
    windows = _windows(layer)
    sizes = {}
    for symbol in layer.sizes:
        grown = 4 * scale if symbol == BATCH.size else scale
        sizes[symbol.name] = _WINDOW if symbol in windows else grown if symbol.is_positive else _OFFSET
    for guard in sorted(_guards(layer), key=str):
        position, length = guard.args
        if isinstance(length, Symbol) and not position.atoms(Indexed):
            least, most = _reach(position, sizes)
            sizes[length.name] = max(1, most + 1 + min(0, least))
    return sizes


def _guards(layer: Layer) -> set[Within]:
    expressions = [*(d.expression for d in layer.definitions), layer.output.expression]
    return {g for e in expressions for g in e.atoms(Within)}


def _windows(layer: Layer) -> set[Symbol]:
    """Return the sizes of the indices that occur both in a computed position and in a parameter's axis."""
    moved = {i for g in _guards(layer) for i in g.args[0].atoms(Index)}
    bases = {p.base for p in layer.parameters}
    expressions = [*(d.expression for d in layer.definitions), layer.output.expression]
    entries = {x for e in expressions for x in e.atoms(Indexed) if x.base in bases}
    summed = {i for e in expressions for bound in _bound(e) for i in bound}
    return {i.size for i in moved & summed if any(i in x.indices for x in entries) and isinstance(i.size, Symbol)}


def _reach(position: Expr, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return the minimum and maximum of a position that is linear in its indices."""
    indices = sorted(position.atoms(Index), key=str)
    fixed = position.subs({s: sizes[s.name] for s in position.free_symbols - set(indices)})
    ends = [0, 0]
    rest = fixed.subs(dict.fromkeys(indices, 0))
    for index in indices:
        slope = sympy.diff(fixed, index)
        far = int(slope * (_value(index.size, sizes) - 1)) if slope.is_Integer else 0
        ends = [ends[0] + min(0, far), ends[1] + max(0, far)]
    constant = int(rest) if rest.is_Integer else 0
    return ends[0] + constant, ends[1] + constant
