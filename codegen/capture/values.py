"""Tensors of a program as functions from indices to expressions, and shape operations on them.

An axis consists of *pieces* (its *grain*); each is an offset and the factors of a mixed-radix number,

    index = offset + (..(i0 n1 + i1) n2 + i2 ..)       one index per factor

so that a merged axis (heads and widths) keeps its parts, and a concatenated one its blocks. Nothing is computed here:
views, slices and the like only rewrite indices; a tensor becomes an intermediate when ``forming`` settles it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from derive.algebra.index import Quotient, Remainder, always_within, bounds
from derive.algebra.nodes import AtMost, Within

Indices = tuple[Expr, ...]
ZERO, ONE = sympy.S.Zero, sympy.S.One


@dataclass(frozen=True)
class Piece:
    """A block of an axis: where it begins, and the factors of its length."""

    offset: Expr
    factors: tuple[Expr, ...]

    @property
    def length(self) -> Expr:
        """The length of the block."""
        return sympy.expand(sympy.Mul(*self.factors))


Grain = tuple[Piece, ...]


def plain(length: Expr) -> Grain:
    """Return the grain of an axis that one index runs over."""
    return (Piece(ZERO, (length,)),)


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: the lengths of its axes, its entry at given indices, and the grain of each axis.

    ``kind`` is ``real``, ``integer`` (entries are index expressions) or ``truth`` (entries are 0 or 1). ``support``,
    where given, is 1 at entries that are finite and 0 at those that are minus infinity (a masked score).
    """

    shape: tuple[Expr, ...]
    at: Callable[[Indices], Expr]
    grains: tuple[Grain, ...] = ()
    kind: str = "real"
    support: Callable[[Indices], Expr] | None = None
    name: str = ""
    settled: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.grains) != len(self.shape):
            object.__setattr__(self, "grains", tuple(map(plain, self.shape)))

    def reindexed(
        self, shape: Sequence[Expr], back: Callable[[Indices], Indices], grains: Sequence[Grain] = ()
    ) -> Value:
        """Return a view: its entry at ``i`` is this tensor's entry at ``back(i)``."""
        at, support = self.at, self.support
        return Value(
            tuple(shape),
            lambda i: at(back(i)),
            tuple(grains),
            self.kind,
            None if support is None else (lambda i: support(back(i))),
            self.name,
        )


def constant(number: Expr | float, kind: str = "real") -> Value:
    """Return a tensor without axes that holds a number."""
    value = sympy.sympify(number)
    if value == -sympy.oo:
        return Value((), lambda i: ZERO, kind=kind, support=lambda i: ZERO)
    return Value((), lambda i: value, kind=kind)


def same(a: Expr, b: Expr) -> bool:
    """Return whether two lengths are the same polynomial."""
    return a == b or sympy.expand(a - b) == 0


def within(index: Expr, length: Expr) -> Expr:
    """Return the guard ``0 <= index < length``, simplified to 1 or 0 if that can be proved."""
    index = sympy.expand(index)
    if always_within(index, length):
        return ONE
    low, high = bounds(index) if not index.atoms(sympy.Indexed) else (sympy.nan, sympy.nan)
    if high.is_negative or sympy.expand(low - length).is_nonnegative:
        return ZERO
    return Within(index, length)


def not_negative(index: Expr) -> Expr:
    """Return 1 where an index expression is 0 or more, and 0 elsewhere."""
    return AtMost(ZERO, index)


def combined(digits: Sequence[Expr], factors: Sequence[Expr]) -> Expr:
    """Return the mixed-radix number with these digits, the last one running fastest."""
    total: Expr = ZERO
    for digit, factor in zip(digits, factors, strict=True):
        total = total * factor + digit
    return sympy.expand(total)


def digits_of(index: Expr, factors: Sequence[Expr]) -> Indices:
    """Return the digits of an index in a mixed radix: linear in its indices if possible, else quotients."""
    found: list[Expr] = []
    rest = sympy.expand(index)
    for radix in reversed(factors[1:]):
        quotient, remainder = _divided(rest, radix)
        found.append(remainder)
        rest = quotient
    return (rest, *reversed(found))


def _divided(index: Expr, radix: Expr) -> tuple[Expr, Expr]:
    if radix == 1:
        return index, ZERO
    if index.is_Integer and radix.is_Integer:
        quotient, remainder = divmod(int(index), int(radix))
        return sympy.Integer(quotient), sympy.Integer(remainder)
    whole, part = ZERO, ZERO
    for term in sympy.Add.make_args(index):
        exact = whole_quotient(term, radix)
        if exact is not None:
            whole += exact
        elif term.is_Integer and radix.is_Integer:
            count, rest = divmod(int(term), int(radix))
            whole, part = whole + count, part + rest
        else:
            part += term
    if not always_within(sympy.expand(part), radix):
        return Quotient(index, radix), Remainder(index, radix)
    return sympy.expand(whole), sympy.expand(part)


def finest(grains: Sequence[Grain]) -> Grain:
    """Return the finest grain of an axis: the most pieces, then the most factors."""
    return max(grains, key=lambda g: (len(g), sum(len(p.factors) for p in g)))


def broadcast_shape(values: Sequence[Value]) -> tuple[tuple[Expr, ...], tuple[Grain, ...]]:
    """Return the common shape of tensors, aligned at the last axis, and the grains of its axes."""
    count = max(len(v.shape) for v in values)
    shape, grains = [], []
    for axis in range(-count, 0):
        there = [(v.shape[axis], v.grains[axis]) for v in values if len(v.shape) >= -axis]
        long = [(n, g) for n, g in there if n != 1]
        if any(not same(n, long[0][0]) for n, _ in long):
            raise refuse(f"lengths {', '.join(str(n) for n, _ in long)} differ along one axis", "expand one of them")
        shape.append(long[0][0] if long else ONE)
        grains.append(finest([g for _, g in long]) if long else plain(ONE))
    return tuple(shape), tuple(grains)


def broadcast_at(value: Value, indices: Indices) -> Indices:
    """Return the indices at which a broadcast tensor is read."""
    count = len(value.shape)
    own = indices[len(indices) - count :] if count else ()
    return tuple(ZERO if n == 1 else i for i, n in zip(own, value.shape, strict=True))


def broadcast(value: Value, shape: Sequence[Expr]) -> Value:
    """Return a tensor expanded to a shape."""
    grains = [plain(n) for n in shape]
    lead = len(shape) - len(value.shape)
    for k, (own, n) in enumerate(zip(value.shape, shape[lead:], strict=True)):
        if own != 1 or n == 1:
            grains[lead + k] = value.grains[k]
    return value.reindexed(shape, lambda i: broadcast_at(value, i), grains)


def pointwise(function: Callable[..., Expr], *values: Value, kind: str = "real") -> Value:
    """Return the tensor whose entries are a function of the entries of broadcast tensors."""
    shape, grains = broadcast_shape(values)
    return Value(shape, lambda i: function(*(v.at(broadcast_at(v, i)) for v in values)), grains, kind)


def permuted(value: Value, order: Sequence[int]) -> Value:
    """Return the tensor with axis ``order[k]`` in place ``k``."""
    count = len(value.shape)
    order = [axis(k, count) for k in order]
    place = [order.index(k) for k in range(count)]
    return value.reindexed(
        [value.shape[k] for k in order], lambda i: tuple(i[p] for p in place), [value.grains[k] for k in order]
    )


def axis(number: Any, count: int) -> int:
    """Return the number of an axis, counted from the front."""
    return int(number) % count if count else 0


def sliced(value: Value, dim: int, start: Expr, length: Expr, step: Expr = ONE) -> Value:
    """Return ``length`` entries along an axis from ``start`` in steps of ``step``."""
    shape = list(value.shape)
    grains = list(value.grains)
    if not (step == 1 and start == 0 and same(length, shape[dim])):
        grains[dim] = _cut(grains[dim], start, length) if step == 1 else plain(length)
    shape[dim] = length
    return value.reindexed(shape, lambda i: (*i[:dim], sympy.expand(start + step * i[dim]), *i[dim + 1 :]), grains)


def _cut(grain: Grain, start: Expr, length: Expr) -> Grain:
    """Return the grain of a slice: the pieces within it if it cuts none in two, else one plain piece."""
    kept = [p for p in grain if sympy.expand(p.offset - start).is_nonnegative]
    kept = [p for p in kept if sympy.expand(start + length - p.offset - p.length).is_nonnegative]
    if kept and same(sympy.Add(*(p.length for p in kept)), length):
        return tuple(replace(p, offset=sympy.expand(p.offset - start)) for p in kept)
    if len(grain) == 1 and len(grain[0].factors) > 1 and grain[0].offset == 0:
        inner = sympy.Mul(*grain[0].factors[1:])
        count = whole_quotient(length, inner)
        if count is not None and whole_quotient(start, inner) is not None:
            return (Piece(ZERO, ((count, *grain[0].factors[1:]) if count != 1 else grain[0].factors[1:])),)
    return plain(length)


def selected(value: Value, dim: int, index: Expr) -> Value:
    """Return the tensor at one index of an axis, without that axis."""
    return value.reindexed(
        [n for k, n in enumerate(value.shape) if k != dim],
        lambda i: (*i[:dim], index, *i[dim:]),
        [g for k, g in enumerate(value.grains) if k != dim],
    )


def with_axis(value: Value, dim: int) -> Value:
    """Return the tensor with an axis of length 1 put in."""
    shape, grains = list(value.shape), list(value.grains)
    shape.insert(dim, ONE)
    grains.insert(dim, plain(ONE))
    return value.reindexed(shape, lambda i: (*i[:dim], *i[dim + 1 :]), grains)


def concatenated(values: Sequence[Value], dim: int) -> Value:
    """Return the concatenation of tensors along an axis."""
    offsets, total, pieces = [], ZERO, []
    for value in values:
        offsets.append(total)
        pieces += [replace(p, offset=sympy.expand(p.offset + total)) for p in value.grains[dim]]
        total = sympy.expand(total + value.shape[dim])

    def joined(parts: Sequence[Callable[[Indices], Expr]]) -> Callable[[Indices], Expr]:
        """Return the entries of the whole, given those of each tensor."""

        def at(i: Indices) -> Expr:
            """Return the entry of the tensor in which the place lies."""
            terms = []
            for value, offset, part in zip(values, offsets, parts, strict=True):
                own = sympy.expand(i[dim] - offset)
                guard = within(own, value.shape[dim])
                if guard != 0:
                    terms.append(guard * part((*i[:dim], own, *i[dim + 1 :])))
            return sympy.Add(*terms)

        return at

    shape = list(values[0].shape)
    shape[dim] = total
    others = [finest([v.grains[k] for v in values]) for k in range(len(shape))]
    others[dim] = tuple(pieces)
    support = None
    if any(v.support for v in values):
        support = joined([v.support or (lambda i: ONE) for v in values])
    return Value(tuple(shape), joined([v.at for v in values]), tuple(others), values[0].kind, support)


def padded(value: Value, dim: int, before: Expr, after: Expr, fill: Expr = ZERO) -> Value:
    """Return the tensor padded with ``fill`` before and after along an axis; negative counts crop."""
    length = value.shape[dim]
    total = sympy.expand(before + length + after)
    if not any(sympy.sympify(k).is_positive for k in (before, after)):
        return sliced(value, dim, sympy.expand(-before), total)

    def at(i: Indices) -> Expr:
        """Return the entry, or ``fill`` in the padding."""
        own = sympy.expand(i[dim] - before)
        guard = within(own, length)
        entry = value.at((*i[:dim], own, *i[dim + 1 :]))
        return guard * entry + (1 - guard) * fill if fill != 0 else guard * entry

    shape, grains = list(value.shape), list(value.grains)
    shape[dim], grains[dim] = total, plain(total)
    return Value(tuple(shape), at, tuple(grains), value.kind)


def reshaped(value: Value, shape: Sequence[Expr], sizes: Callable[[Expr], int]) -> Value:
    """Return the tensor viewed in another shape; ``sizes`` gives the value of a length at one point."""
    old = [k for k, n in enumerate(value.shape) if n != 1]
    new = [k for k, n in enumerate(shape) if n != 1]
    groups = _groups([value.shape[k] for k in old], [shape[k] for k in new], sizes)
    grains: list[Grain] = [plain(n) for n in shape]
    parts: list[tuple[list[int], list[int]]] = []
    for mine, theirs in groups:
        a, b = [old[k] for k in mine], [new[k] for k in theirs]
        parts.append((a, b))
        _share(value, a, b, shape, grains)

    def back(i: Indices) -> Indices:
        """Return the old indices of new ones."""
        found: list[Expr] = [ZERO] * len(value.shape)
        for a, b in parts:
            flat = combined([i[k] for k in b], [shape[k] for k in b])
            for k, digit in zip(a, digits_of(flat, [value.shape[k] for k in a]), strict=True):
                found[k] = digit
        return tuple(found)

    return value.reindexed(shape, back, grains)


def _share(value: Value, a: list[int], b: list[int], shape: Sequence[Expr], grains: list[Grain]) -> None:
    """Set the grains of a group's new axes, if they follow from those of the old ones."""
    if len(a) == len(b) == 1:
        grains[b[0]] = value.grains[a[0]]
        return
    if any(len(value.grains[k]) != 1 or value.grains[k][0].offset != 0 for k in a):
        return
    factors = [f for k in a for f in value.grains[k][0].factors]
    for k in b:
        taken: list[Expr] = []
        rest: Any = shape[k]
        while rest != 1 and factors:
            first = factors.pop(0)
            beyond, left = whole_quotient(first, rest), whole_quotient(rest, first)
            if beyond is None and left is None:
                return
            taken.append(first if beyond is None else rest)
            if beyond is not None and beyond != 1:
                factors.insert(0, beyond)
            rest = ONE if beyond is not None else left
        grains[k] = (Piece(ZERO, tuple(taken)),)


def whole_quotient(a: Expr, b: Expr) -> Expr | None:
    """Return ``a/b`` if that is a polynomial with integer coefficients, else None."""
    found = sympy.cancel(a / b)
    whole = found.is_polynomial() and all(c.q == 1 for c in found.atoms(sympy.Rational))
    return sympy.expand(found) if whole else None


def _groups(
    old: Sequence[Expr], new: Sequence[Expr], sizes: Callable[[Expr], int]
) -> list[tuple[list[int], list[int]]]:
    """Return the smallest groups of old and new axes, in order, that hold equally many entries."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        mine, theirs = [i], [j]
        if i >= len(old) or j >= len(new):
            raise refuse("a view changes the number of entries", "view to a shape with the same number of entries")
        a, b = old[i], new[j]
        i, j = i + 1, j + 1
        while not same(a, b):
            if (sizes(a) <= sizes(b) or j >= len(new)) and i < len(old):
                a *= old[i]
                mine.append(i)
                i += 1
            elif j < len(new):
                b *= new[j]
                theirs.append(j)
                j += 1
            else:
                raise refuse(f"a view of {a} entries as {b}", "view to a shape with the same number of entries")
        groups.append((mine, theirs))
    return groups
