"""Random indexed-sum expressions for hypothesis, each with a small world in which it can be evaluated.

Index expressions have strides, dilations and offsets, as numbers and as symbols. An entry that may lie outside its
tensor has range guards, as in every forward map. Sizes are one to four.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import sympy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from sympy import Expr, KroneckerDelta, Mul, Rational, Symbol

from derive.algebra.index import Index, size_symbol
from derive.algebra.nodes import Divides, IndexedSum, Within, tensor
from tests.derive.algebra.brute import World

n, m, L = size_symbol("n"), size_symbol("m"), size_symbol("L")
stride, dilation = size_symbol("stride"), size_symbol("dilation")
padding = Symbol("padding", integer=True, nonnegative=True)

x, y, w, u, t = tensor("x"), tensor("y"), tensor("w"), tensor("u"), tensor("t", values=L)
SHAPES: dict[str, tuple[Expr, ...]] = {
    "x": (L,),
    "y": (n, m),
    "w": (m,),
    "u": (sympy.Integer(3),),
    "t": (n,),
}
SIZES: tuple[Expr, ...] = (n, m, L, sympy.Integer(1), sympy.Integer(2), sympy.Integer(3), sympy.Integer(4))
FREE = (Index("i", n), Index("p", L))

Draw = Any

random_cases = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Case:
    """An expression and a world to evaluate it in."""

    expression: Expr
    world: World


@st.composite
def worlds(draw: Draw) -> World:
    """Sizes from one to four, strides up to three, padding from zero."""
    sizes = {s: draw(st.integers(1, 4)) for s in (n, m, L)}
    sizes |= {stride: draw(st.integers(1, 3)), dilation: draw(st.integers(1, 3)), padding: draw(st.integers(0, 2))}
    return World(sizes, SHAPES, draw(st.integers(0, 999)))


def entry(name: str, *indices: Expr) -> Expr:
    """An entry that is zero outside its tensor."""
    guards = [Within(e, size) for e, size in zip(indices, SHAPES[name], strict=True)]
    return Mul(tensor(name)[indices], *guards)


steps = st.sampled_from([sympy.S.One, sympy.Integer(2), sympy.Integer(3), stride, dilation])
offsets = st.sampled_from([sympy.S.Zero, sympy.S.One, sympy.Integer(2), sympy.Integer(-1), padding, -padding])


@st.composite
def positions(draw: Draw, indices: tuple[Index, ...]) -> Expr:
    """An index expression: plain, shifted, reversed, strided, a stencil, or looked up in a tensor of integers."""
    i = draw(st.sampled_from(indices))
    match draw(st.sampled_from(["plain", "plain", "shifted", "reversed", "strided", "stencil", "token", "constant"])):
        case "shifted":
            return i + draw(offsets)
        case "reversed":
            return i.size - 1 - i
        case "strided":
            return draw(steps) * i + draw(offsets)
        case "stencil":
            return draw(steps) * i + draw(steps) * draw(st.sampled_from(indices)) - draw(offsets)
        case "token":
            return t[i] if i.size == n else i
        case "constant":
            return draw(st.sampled_from([sympy.S.Zero, sympy.S.One, L - 1]))
    return i


@st.composite
def entries(draw: Draw, indices: tuple[Index, ...]) -> Expr:
    """A guarded entry of one of the tensors."""
    name = draw(st.sampled_from(["x", "x", "y", "w", "u"]))
    return entry(name, *(draw(positions(indices)) for _ in SHAPES[name]))


@st.composite
def guards(draw: Draw, indices: tuple[Index, ...]) -> Expr:
    """A delta of two index expressions, a range guard, or a divisibility guard."""
    here = draw(positions(indices))
    match draw(st.sampled_from(["delta", "delta", "within", "divides"])):
        case "within":
            return Within(here, draw(st.sampled_from(SIZES)))
        case "divides":
            return Divides(draw(steps), here)
    return KroneckerDelta(here, draw(positions(indices)))


@st.composite
def factors(draw: Draw, indices: tuple[Index, ...], depth: int) -> Expr:
    """An entry, a guard, a number, an index as a number, a power, a reciprocal or a nested sum."""
    kinds = ["entry", "entry", "guard", "guard", "power", "number"] + ["sum", "sum", "reciprocal"] * (depth > 0)
    match draw(st.sampled_from(kinds)):
        case "guard":
            return draw(guards(indices))
        case "power":
            return draw(entries(indices)) ** 2
        case "number":
            return draw(st.sampled_from([Rational(-3, 2), sympy.Integer(2), n, indices[0] + 1]))
        case "sum":
            return draw(sums(indices, depth - 1)) ** draw(st.sampled_from([1, 1, 2]))
        case "reciprocal":
            return 1 / (draw(sums(indices, 0)) ** 2 + 1)
    return draw(entries(indices))


@st.composite
def products(draw: Draw, indices: tuple[Index, ...], depth: int) -> Expr:
    """One to three factors."""
    return Mul(*(draw(factors(indices, depth)) for _ in range(draw(st.integers(1, 3)))))


@st.composite
def sums(draw: Draw, indices: tuple[Index, ...], depth: int) -> Expr:
    """A sum over one or two new indices; a name may shadow one that is bound or free outside."""
    bound = []
    for _ in range(draw(st.integers(1, 2))):
        taken = {b.name for b in bound}
        name = draw(st.sampled_from([c for c in "ijklp" if c not in taken]))
        bound.append(Index(name, draw(st.sampled_from(SIZES))))
    seen = tuple(bound) + tuple(i for i in indices if i.name not in {b.name for b in bound})
    body = sum((draw(products(seen, depth)) for _ in range(draw(st.integers(1, 2)))), sympy.S.Zero)
    return IndexedSum(body, *bound)


@st.composite
def cases(draw: Draw, depth: int = 1) -> Case:
    """A random expression with free indices ``i`` and ``p``, and its world."""
    terms = [draw(sums(FREE, depth)) for _ in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()):
        terms[0] = terms[0] * draw(products(FREE, depth))
    return Case(sympy.Add(*terms), draw(worlds()))


def disguise(expression: Expr, rng: random.Random) -> Expr:
    """The same expression with every bound index renamed and reordered, and sums without deltas split in two.

    A delta removes whichever index it can first, so splitting its sum may change the guards that remain.
    """
    if not isinstance(expression, IndexedSum):
        if not expression.args or isinstance(expression, sympy.IndexedBase):
            return expression
        return expression.func(*(disguise(a, rng) for a in expression.args))
    inner = disguise(expression.body, rng)  # every new name is used once, so nothing below can be captured
    new = [Index(f"{rng.choice('aHqz_')}{rng.randrange(10**9)}", i.size) for i in expression.bound]
    body = inner.xreplace(dict(zip(expression.bound, new, strict=True)))
    rng.shuffle(new)
    cut = 0 if body.has(KroneckerDelta) else rng.randrange(len(new) + 1)
    return IndexedSum(IndexedSum(body, *new[cut:]), *new[:cut])
