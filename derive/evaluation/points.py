"""A point of evaluation: sizes, numbers, and a seed that determines every unknown entry."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import sympy
from sympy import Expr, IndexedBase, Symbol

from derive.evaluation.fields import Field
from derive.evaluation.functions import NotEvaluable

if TYPE_CHECKING:
    from derive.evaluation.positions import Affine
    from derive.forward_map import Definition

Key = tuple[str, tuple[int, ...]]
Jet = tuple[Any, dict[Key, Any] | None]
Witness = tuple[Expr, object]


@dataclasses.dataclass
class Point:
    """One evaluation point.

    ``scope`` holds the intermediates. ``axes``, if given, are the declared axes of tensors: an entry outside them is
    zero. Without axes every place has its own number, so that a read outside a tensor is noticed. ``spread`` says how
    unknown entries are drawn; a tensor with a salt is drawn anew, one with a stretch is multiplied by it.
    ``witnessed``, unless None, collects the edges that are hit (see ``edges``); for sums only those in ``wanted``.
    A nudged point has slopes with respect to the ``active`` tensors; it keeps the point ``rest`` that it was nudged
    from, and looks up there every tensor that is not ``moving`` with them.
    """

    seed: int
    sizes: dict[Symbol, int]
    field: Field
    scope: Mapping[IndexedBase, Definition]
    axes: Mapping[str, tuple[Expr, ...]] = dataclasses.field(default_factory=dict)
    spread: Spread = dataclasses.field(default_factory=lambda: Spread())
    salts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stretch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    witnessed: set[Witness] | None = None
    wanted: frozenset[Witness] = frozenset()
    active: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    rest: Point | None = None
    memory: dict[Key, Jet] = dataclasses.field(default_factory=dict)
    kept: dict[tuple[int, ...], Jet] = dataclasses.field(default_factory=dict)
    unseen: dict[int, list[Any]] = dataclasses.field(default_factory=dict)
    nudges: dict[frozenset[str], Point] = dataclasses.field(default_factory=dict)
    constants: dict[Expr, Any] = dataclasses.field(default_factory=dict)
    forms: dict[int, Affine] = dataclasses.field(default_factory=dict)
    coefficients: dict[Expr, Fraction] = dataclasses.field(default_factory=dict)

    def size(self, expression: Expr) -> int:
        """Return the value of a size expression."""
        if expression in self.sizes:
            return self.sizes[expression]
        value = expression.xreplace({s: sympy.Integer(v) for s, v in self.sizes.items()})
        if not value.is_Integer:
            raise NotEvaluable(f"size {expression} has no integer value here")
        return int(value)

    def constant(self, expression: Expr) -> Any:
        """Return a number as an element of the field."""
        if expression not in self.constants:
            self.constants[expression] = self.field.constant(expression)
        return self.constants[expression]

    def nudged(self, *names: str) -> Point:
        """Return the point with slopes with respect to every entry of some tensors; refuse slopes of slopes."""
        if self.active:
            raise NotEvaluable("a derivative of a derivative")
        active = frozenset(names)
        if active not in self.nudges:
            self.nudges[active] = dataclasses.replace(
                self, active=active, moving=self._moving(active), rest=self, memory={}, kept={}, nudges={}
            )
        return self.nudges[active]

    def _moving(self, active: frozenset[str]) -> frozenset[str]:
        """Return the names of the active tensors and scalars and of all that depends on them."""
        moving = set(active)
        for _ in self.scope:
            found = {str(base.label) for base, made in self.scope.items() if names_in(made.expression) & moving}
            if found <= moving:
                break
            moving |= found
        return frozenset(moving)

    def home(self, name: str) -> Point:
        """Return the point at which to look up a tensor: this one, or the one at rest if the nudge misses it."""
        return self if self.rest is None or name in self.moving else self.rest

    def inside(self, name: str, place: tuple[int, ...]) -> bool:
        """Return whether a place lies in a tensor, as far as its axes are known."""
        axes = self.axes.get(name)
        return axes is None or all(0 <= i < self.size(axis) for i, axis in zip(place, axes, strict=True))

    def draw(self, name: str, place: tuple[int, ...], positive: bool = False) -> Any:
        """Return the entry of an unknown tensor: a function of only the seed, the name and the place."""
        value = self.field.random(self.bits(name, place), positive or self.spread.positive)
        return self.spread.scaled(value, self) * self.stretch.get(name, 1)

    def bits(self, name: str, place: tuple[int, ...]) -> int:
        """Return 64 random bits for a name and a place."""
        text = f"{self.seed}/{name}{self.salts.get(name, '')}/{place}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")


@dataclasses.dataclass(frozen=True)
class Spread:
    """How unknown entries are drawn: of either sign or positive, of order one or at another scale.

    Roots and logarithms need arguments that entries of either sign seldom give; and only large entries reach a setting
    that must exceed some number of the layer, as kappa must.
    """

    positive: bool = False
    scale: sympy.Rational = sympy.S.One

    def scaled(self, value: Any, point: Point) -> Any:
        """Return the entry at the scale of this spread."""
        return value if self.scale == 1 else value * point.constant(self.scale)


@lru_cache(maxsize=5_000)
def names_in(expression: Expr) -> frozenset[str]:
    """Return the names of all tensors and scalars in an expression (and of its indices, which does no harm)."""
    return frozenset(symbol.name for symbol in expression.atoms(Symbol))
