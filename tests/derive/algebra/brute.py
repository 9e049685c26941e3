"""A second evaluator, written only for the tests: plain loops over fractions (or floats), without rules or fields.

It shares no code with ``derive.evaluation.evaluate`` and is stricter: reading an entry outside its tensor is an error.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import factorial

import sympy
from sympy import Expr, Indexed, KroneckerDelta, Symbol

from derive.algebra.index import Index
from derive.algebra.nodes import Divides, IndexedSum, IndexTensor, Within
from derive.forward_map import Definition

Environment = Mapping[Index, int]
Number = Fraction | float


class OutsideTensor(AssertionError):
    """An entry was read at a position that its tensor does not have."""


class Undefined(ArithmeticError):
    """The expression has no value here (division by zero)."""


@dataclass
class World:
    """Sizes, shapes and numbers that give a symbolic expression its value at one small point.

    ``numbers`` holds the entries known so far; others are drawn. ``definitions`` are the intermediates, by name.
    """

    sizes: Mapping[Symbol, int]
    shapes: Mapping[str, tuple[Expr, ...]]
    seed: int = 0
    numbers: dict[tuple[str, tuple[int, ...]], Number] = field(default_factory=dict)
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)

    def size(self, expression: Expr) -> int:
        if expression in self.sizes:
            return self.sizes[expression]
        return int(sympy.sympify(expression).xreplace({s: sympy.Integer(v) for s, v in self.sizes.items()}))

    def entry(self, name: str, at: tuple[int, ...]) -> Number:
        """The number at a position; drawn once, small and never zero."""
        if name in self.definitions:
            if (name, at) not in self.numbers:
                indices, expression = self.definitions[name].indices, self.definitions[name].expression
                self.numbers[name, at] = value(expression, dict(zip(indices, at, strict=True)), self)
            return self.numbers[name, at]
        shape = [self.size(s) for s in self.shapes[name]]
        if len(at) != len(shape) or not all(0 <= a < s for a, s in zip(at, shape, strict=True)):
            raise OutsideTensor(f"{name}{list(at)} of shape {shape}")
        if (name, at) not in self.numbers:
            draw = random.Random(f"{self.seed} {name} {at}")
            self.numbers[name, at] = Fraction(draw.choice((-3, -2, -1, 1, 2, 3, 4, 5)), draw.choice((1, 1, 2, 3)))
        return self.numbers[name, at]

    def token(self, base: IndexTensor, at: tuple[int, ...]) -> int:
        """An entry of a tensor of integers."""
        known = self.entry(str(base.label), at)  # refuses a position outside
        if isinstance(known, float):
            return int(known)
        return random.Random(f"{self.seed} {base.label} {at}").randrange(self.size(base.values))

    def moved(self, name: str, at: tuple[int, ...], by: Fraction) -> World:
        """The same world with one entry moved."""
        given = {key: number for key, number in self.numbers.items() if key[0] not in self.definitions}
        return replace(self, numbers={**given, (name, at): self.entry(name, at) + by})


def value(expression: Expr, at: Environment, world: World) -> Number:
    """The value of an expression; ``at`` gives the free indices."""
    if expression.is_Rational:
        return Fraction(int(expression.p), int(expression.q))
    if isinstance(expression, Index):
        return Fraction(at[expression])
    if isinstance(expression, Symbol):
        return world.scalars[expression.name] if expression.name in world.scalars else Fraction(world.sizes[expression])
    if isinstance(expression, Indexed):
        return _entry(expression, at, world)
    if isinstance(expression, KroneckerDelta | Within | Divides):
        return Fraction(int(_holds(expression, at, world)))
    if isinstance(expression, IndexedSum):
        return _sum(expression, at, world)
    if expression.is_Add:
        return sum((value(a, at, world) for a in expression.args), Fraction(0))
    if expression.is_Mul:
        return _product(expression, at, world)
    if expression.is_Pow:
        return _power(expression, at, world)
    if isinstance(expression, sympy.exp | sympy.tanh | sympy.sin | sympy.cos):
        return float(getattr(math, type(expression).__name__)(value(expression.args[0], at, world)))
    if isinstance(expression, sympy.Max):
        return max(value(a, at, world) for a in expression.args)
    if isinstance(expression, sympy.Heaviside | sympy.sign):
        argument = value(expression.args[0], at, world)
        return float(argument > 0) - (float(argument < 0) if isinstance(expression, sympy.sign) else 0.0)
    raise TypeError(f"not in this language: {type(expression).__name__}")


def _entry(expression: Indexed, at: Environment, world: World) -> Number:
    where = tuple(Fraction(value(i, at, world)) for i in expression.indices)
    if any(w.denominator != 1 for w in where):
        raise OutsideTensor(f"{expression} at the broken position {where}")
    position = tuple(int(w) for w in where)
    if isinstance(expression.base, IndexTensor):
        return Fraction(world.token(expression.base, position))
    return world.entry(str(expression.base.label), position)


def _holds(guard: Expr, at: Environment, world: World) -> bool:
    first, second = (Fraction(value(a, at, world)) for a in guard.args)
    if isinstance(guard, KroneckerDelta):
        return first == second
    if isinstance(guard, Divides):
        return (second / first).denominator == 1
    return first.denominator == 1 and 0 <= first < second


def _sum(expression: IndexedSum, at: Environment, world: World) -> Number:
    ranges = [range(world.size(i.size)) for i in expression.bound]
    total: Number = Fraction(0)
    for position in itertools.product(*ranges):
        total += value(expression.body, {**at, **dict(zip(expression.bound, position, strict=True))}, world)
    return total


def _product(expression: Expr, at: Environment, world: World) -> Number:
    """Return the product; a guard that does not hold makes it zero before any factor after it is read."""
    guards = [a for a in expression.args if isinstance(a, KroneckerDelta | Within | Divides)]
    guards.sort(key=lambda g: g.has(Indexed))  # a guard that reads a token may itself need a guard
    if not all(_holds(g, at, world) for g in guards):
        return Fraction(0)
    total: Number = Fraction(1)
    for factor in expression.args:
        total *= value(factor, at, world)
    return total


def _power(expression: Expr, at: Environment, world: World) -> Number:
    base, exponent = value(expression.base, at, world), expression.exp
    if base == 0 and exponent.is_negative:
        raise Undefined(str(expression))
    return base ** int(exponent) if exponent.is_Integer else math.pow(base, exponent)


def environments(expression: Expr, world: World, most: int = 8) -> Iterator[dict[Index, int]]:
    """Values of the free indices: all of them, or ``most`` drawn from them with both ends of every range."""
    free = sorted((s for s in expression.free_symbols if isinstance(s, Index)), key=Index.sort_key)
    ranges = [range(world.size(i.size)) for i in free]
    everywhere = list(itertools.islice(itertools.product(*ranges), 400))
    if len(everywhere) > most:
        ends = [everywhere[0], everywhere[-1]]
        everywhere = ends + random.Random(world.seed).sample(everywhere[1:-1], most - 2)
    for position in everywhere:
        yield dict(zip(free, position, strict=True))


def derivative(
    expression: Expr, name: str, entry: tuple[int, ...], at: Environment, world: World, *, half: int = 2
) -> Number:
    """The derivative by one entry, an exact difference, for polynomials in it of degree up to ``2 half``."""
    slope: Number = Fraction(0)
    for step in range(1, half + 1):
        weight = Fraction(
            -((-1) ** step) * factorial(half) ** 2, step * factorial(half - step) * factorial(half + step)
        )
        ends = (value(expression, at, world.moved(name, entry, Fraction(h))) for h in (step, -step))
        slope += weight * (next(ends) - next(ends))
    return slope
