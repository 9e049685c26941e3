"""Counter-examples to injectivity and invariance of a map, found by evaluating it at two inputs.

The map is evaluated at small random sizes, at random inputs and at the same inputs *moved* (stretched, negated,
shifted, reordered, ...). If no output differs at any point tried, the move is a counter-example to injectivity; if an
output differs, the stretched input is a counter-example to scale invariance.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sympy

from derive.algebra.index import Index
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import REAL
from derive.evaluation.functions import NotEvaluable
from derive.evaluation.points import Point
from derive.forward_map import Layer, Tensor
from derive.properties.reading import real_inputs

Place = tuple[int, ...]
_POINTS = 3
_ENTRIES = 6
_STRETCH = 7
_SCALES = (Decimal(1), Decimal(1) / 16)  # larger entries saturate: outputs that agree to 40 digits may then differ
_NEAR = Decimal(10) ** -12
_FAR_APART = Decimal("0.001")
_KAPPA, _LARGE = ("kappa", ()), Decimal(10_000)
_TURN = REAL.constant(2 * sympy.pi)


@dataclass(frozen=True)
class Move:
    """A change of the inputs: its words, and the changed value at a place of an input."""

    words: str
    value: Callable[[str, Place, Any, _Inputs], Any]
    place: Callable[[str, Place, _Inputs], Place] = lambda name, place, inputs: place


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a layer by name, and the length of each axis at a point."""

    tensors: dict[str, Tensor]
    lengths: dict[str, Place]


@dataclass
class _Moved(Point):
    """A point whose inputs are drawn as usual and then moved."""

    inputs: _Inputs = field(default_factory=lambda: _Inputs({}, {}))
    move: Move | None = None
    positive: bool = False
    scale: Any = 1
    changed: bool = False

    def draw(self, name: str, indices: Place, positive: bool = False) -> Any:
        """Return an entry, moved if it belongs to an input."""
        if name not in self.inputs.tensors:
            return super().draw(name, indices, positive)
        at = indices if self.move is None else self.move.place(name, indices, self.inputs)
        plain = self._plain(name, at)
        moved = plain if self.move is None else self.move.value(name, at, plain, self.inputs)
        self.changed |= self.move is not None and moved != self._plain(name, indices)
        return moved

    def _plain(self, name: str, indices: Place) -> Any:
        return self.scale * super().draw(name, indices, self.positive)

    def bits(self, name: str, indices: Place) -> int:
        """Return the random bits of an entry; an entry of an integer input is moved by its place."""
        values = self.inputs.tensors[name].values if name in self.inputs.tensors else None
        if self.move is None or values is None:
            return super().bits(name, indices)
        at = self.move.place(name, indices, self.inputs)
        plain, moved = super().bits(name, indices), super().bits(name, at)
        self.changed |= plain % self.size(values) != moved % self.size(values)
        return moved


@dataclass(frozen=True)
class Collision:
    """The move that changes no output, in words, or None; and the number of moves tried."""

    words: str | None
    tried: int


def stretched(layer: Layer) -> bool | None:
    """Return whether every output stays the same when the real inputs are stretched; None if nothing has a value."""
    move = _on_all(layer, f"an input and {_STRETCH} times it", lambda v: _STRETCH * v)
    answers = [_unnoticed(layer, move, scale) for scale in _SCALES]
    return False if False in answers else True if True in answers else None


def jump(layer: Layer) -> bool | None:
    """Return whether two inputs close to zero have outputs far apart; None if nothing has a value."""
    near = _on_all(layer, "close to zero", lambda v: v * _NEAR)
    opposite = _on_all(layer, "close to zero", lambda v: -v * _NEAR)
    told = False
    for seed in range(_POINTS):
        points = [_point(layer, seed, move=move) for move in (near, opposite)]
        with points[0].field.context():
            for at in _places(layer, points[0]):
                try:
                    here, there = (evaluate(layer.output.expression, at, point) for point in points)
                except NotEvaluable:
                    continue
                told = True
                if abs(here - there) > _FAR_APART:
                    return True
    return False if told else None


def collision(layer: Layer) -> Collision:
    """Look for two different inputs with the same outputs, with entries of order one and with small ones."""
    tried = 0
    for move in _moves(layer):
        answers = [_unnoticed(layer, move, scale) for scale in _SCALES]
        tried += any(answer is not None for answer in answers)
        if True in answers:
            return Collision(move.words, tried)
    return Collision(None, tried)


def _unnoticed(layer: Layer, move: Move, scale: Any) -> bool | None:
    """Return whether no output differs at any point; None if the move changes nothing or nothing has a value."""
    told = 0
    for seed, positive in itertools.product(range(_POINTS), (False, True)):
        same = _same(layer, move, seed, positive, scale)
        if same is False:
            return False
        told += same is True
    return True if told >= _POINTS - 1 else None


def _point(layer: Layer, seed: int, positive: bool = False, scale: Any = 1, move: Move | None = None) -> _Moved:
    inputs = _Inputs({t.name: t for t in layer.inputs}, {})
    drawn = {"inputs": inputs, "positive": positive, "scale": scale, "move": move}
    point = _Moved(seed, _sizes(layer, seed), REAL, layer.scope, **drawn)
    for tensor in layer.inputs:
        inputs.lengths[tensor.name] = tuple(point.size(a) for a in tensor.axes)
    point.memory[_KAPPA] = (_LARGE, None)  # a map may need it to exceed the contribution of the offsets
    return point


def _same(layer: Layer, move: Move, seed: int, positive: bool, scale: Any) -> bool | None:
    point, other = _point(layer, seed, positive, scale), _point(layer, seed, positive, scale, move)
    told = False
    with point.field.context():
        for at in _places(layer, point):
            try:
                here = evaluate(layer.output.expression, at, point)
                there = evaluate(layer.output.expression, at, other)
            except NotEvaluable:
                return None
            if not point.field.same(here, there):
                return False
            told = True
    return True if told and other.changed else None


def _places(layer: Layer, point: Point) -> Iterator[dict[Index, int]]:
    """Yield places of the output: all of them, or some drawn at random."""
    indices = layer.output.indices
    every = list(itertools.product(*(range(point.size(i.size)) for i in indices)))
    chosen = every if len(every) <= _ENTRIES else random.Random(point.seed).sample(every, _ENTRIES)
    for place in chosen:
        yield dict(zip(indices, place, strict=True))


def _sizes(layer: Layer, seed: int) -> dict[sympy.Symbol, int]:
    """Return small sizes: two or three for an axis, five for an axis of inputs only, over which windows slide.

    Strides and dilations are one and padding is none: no window then reads outside, where a shift changes nothing.
    """
    generator = random.Random(seed)
    read = {s for t in layer.inputs for a in t.axes for s in a.free_symbols}
    others = {s for t in layer.parameters for a in t.axes for s in a.free_symbols}
    others |= {s for d in (*layer.definitions, layer.output) for i in d.indices for s in i.size.free_symbols}
    sizes = {}
    for symbol in sorted({s for s in layer.sizes if s.is_Symbol} | read | others, key=str):
        length = generator.choice((2, 3)) if symbol in others else 5
        sizes[symbol] = length if symbol in read | others else int(bool(symbol.is_positive))
    return sizes


def _on(names: Iterable[str], change: Callable[[Any], Any]) -> Callable[[str, Place, Any, _Inputs], Any]:
    """Return the change of every entry of some inputs."""
    chosen = frozenset(names)
    return lambda name, place, value, inputs: change(value) if name in chosen else value


def _on_all(layer: Layer, words: str, change: Callable[[Any], Any]) -> Move:
    return Move(words, _on((t.name for t in real_inputs(layer)), change))


def _moves(layer: Layer) -> Iterator[Move]:
    """Yield the moves to try."""
    names = [t.name for t in real_inputs(layer)]
    if names:
        yield _on_all(layer, f"an input and {_STRETCH} times it", lambda v: _STRETCH * v)
        yield _on_all(layer, "an input and its negative", lambda v: -v)
    for name in names:
        yield from _of_one(name, alone=len(names) == 1)
    for first, second in itertools.permutations(names, 2):
        yield _traded(first, second)
        yield _exchanged(first, second)
    for tensor in layer.inputs:
        yield from _reordered(tensor)


def _of_one(name: str, alone: bool) -> Iterator[Move]:
    if not alone:
        yield Move(f"`{name}` and twice `{name}`", _on([name], lambda v: 2 * v))
        yield Move(f"`{name}` and its negative", _on([name], lambda v: -v))
    yield Move(f"`{name}` and `{name}` with 1 added to every entry", _on([name], lambda v: v + 1))
    yield Move(f"`{name}` and `{name}` with `2*pi` added to every entry", _on([name], lambda v: v + _TURN))
    yield Move(f"`{name}` with other negative entries", _on([name], lambda v: 2 * v if v < 0 else v))
    yield Move(f"`{name}` with other entries above 1", _on([name], lambda v: v + 1 if v > 1 else v))

    def flipped(owner: str, place: Place, value: Any, inputs: _Inputs) -> Any:
        """Return the entry, with its sign changed at the first place of each sample."""
        return -value if owner == name and not any(place[1:]) else value

    yield Move(f"`{name}` with the sign of one entry changed", flipped)


def _exchanged(first: str, second: str) -> Move:
    def value(name: str, place: Place, entry: Any, inputs: _Inputs) -> Any:
        """Return one more than the entry of one input, and one less than that of the other."""
        return entry + 1 if name == first else entry - 1 if name == second else entry

    return Move(f"`{first}` and `{second}`, and these with 1 added to `{first}` and taken from `{second}`,", value)


def _traded(first: str, second: str) -> Move:
    def value(name: str, place: Place, entry: Any, inputs: _Inputs) -> Any:
        """Return twice the entry of one input, and half the entry of the other."""
        return 2 * entry if name == first else entry / 2 if name == second else entry

    return Move(f"`{first}` and `{second}`, and twice `{first}` and half of `{second}`,", value)


def _reordered(tensor: Tensor) -> Iterator[Move]:
    """Yield the reversal of each axis but the batch."""
    for axis in range(1, len(tensor.axes)):

        def place(name: str, at: Place, inputs: _Inputs, axis: int = axis) -> Place:
            """Return the place to read instead."""
            if name != tensor.name:
                return at
            return (*at[:axis], inputs.lengths[name][axis] - 1 - at[axis], *at[axis + 1 :])

        words = "reversed" if len(tensor.axes) == 2 else f"reversed along axis {axis}"
        yield Move(f"`{tensor.name}` and `{tensor.name}` {words}", lambda name, at, value, inputs: value, place)
