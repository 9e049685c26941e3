"""Embedding, selection by index, comparisons, masks."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Indexed, KroneckerDelta

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.pointwise import as_value, no_infinity
from codegen.capture.operators.table import rule
from codegen.capture.values import (
    ONE,
    ZERO,
    Indices,
    Value,
    axis,
    broadcast_at,
    broadcast_shape,
    constant,
    not_negative,
    plain,
    pointwise,
    reshaped,
    same,
    whole_quotient,
)

_LOW = -10_000


def integers(value: Value, what: str) -> Value:
    """Return a tensor of index expressions; refuse one whose entries are computed numbers."""
    if value.kind != "integer":
        raise refuse(f"{what} selects by computed numbers", "select by an integer input or an arange")
    return value


@rule("embedding")
def embedding(
    form: Forming,
    weight: Value,
    indices: Value,
    padding_idx: Expr = -ONE,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Value:
    """``z[.., i] = W[t[..], i]``."""
    if padding_idx != -1:
        raise refuse("an embedding has padding_idx, whose row gets no gradient", "leave padding_idx out")
    where = integers(indices, "an embedding")
    return Value(
        (*where.shape, *weight.shape[1:]),
        lambda i: weight.at((where.at(i[:-1]), i[-1])),
        (*where.grains, *weight.grains[1:]),
    )


@rule("embedding_bag", "_embedding_bag")
def embedding_bag(
    form: Forming, weight: Value, indices: Value, offsets: Value, mode: Expr = ZERO, **settings: Any
) -> tuple[Value, ...]:
    """The sum or mean of the rows of a bag; all bags have the same length."""
    if settings.get("per_sample_weights") is not None or settings.get("padding_idx", -1) not in (-1, None) or mode == 2:
        raise refuse("embedding_bag uses weights, padding or mode 'max'", "write it as embedding, product and sum")
    where_, starts = integers(indices, "embedding_bag"), integers(offsets, "embedding_bag")
    length = sympy.expand(starts.at((ONE,)) - starts.at((ZERO,)))
    bags = whole_quotient(where_.shape[0], length) if length != 0 else None
    if bags is None or not same(bags, starts.shape[0]):
        raise refuse("embedding_bag gets bags of several lengths", "give an input of two axes: bags of one length")
    rows = reshaped(where_, (bags, length), form.size)

    def at(i: Indices) -> Expr:
        """Return the sum over a bag."""
        total = form.over([(length, rows.grains[1])], lambda k: weight.at((rows.at((i[0], k[0])), i[1])))
        return total / length if mode == 1 else total

    return (Value((bags, weight.shape[1]), at, (rows.grains[0], weight.grains[1])), *(rows,) * 3)


@rule("index_select")
def index_select(form: Forming, self: Value, dim: Expr, index: Value) -> Value:
    """Entries along an axis selected by integers."""
    place = axis(dim, len(self.shape))
    where = integers(index, "index_select")
    shape = [where.shape[0] if k == place else n for k, n in enumerate(self.shape)]
    grains = [where.grains[0] if k == place else g for k, g in enumerate(self.grains)]
    return self.reindexed(shape, lambda i: (*i[:place], where.at((i[place],)), *i[place + 1 :]), grains)


@rule("gather")
def gather(form: Forming, self: Value, dim: Expr, index: Value, sparse_grad: bool = False) -> Value:
    """Entries along an axis selected by integers, separately for each entry of the result."""
    place = axis(dim, len(self.shape))
    where = integers(index, "gather")
    return self.reindexed(where.shape, lambda i: (*i[:place], where.at(i), *i[place + 1 :]), where.grains)


@rule("index")
def index(form: Forming, self: Value, indices: Any) -> Value:
    """Advanced indexing by integers along adjacent axes."""
    chosen = [k for k, v in enumerate(indices) if v is not None]
    if any(v.kind == "truth" for v in indices if v is not None):
        raise refuse("a mask selects entries, so the result has no fixed shape", "multiply by it, or use torch.where")
    if chosen != list(range(chosen[0], chosen[-1] + 1)):
        raise refuse("advanced indexing uses axes that are not adjacent", "move them side by side first")
    tensors = [integers(indices[k], "indexing") for k in chosen]
    shape, grains = broadcast_shape(tensors)
    first, count = chosen[0], len(shape)
    after = first + len(chosen)

    def back(i: Indices) -> Indices:
        """Return the indices that the integers select."""
        middle = i[first : first + count]
        return (*i[:first], *(t.at(broadcast_at(t, middle)) for t in tensors), *i[first + count :])

    return self.reindexed(
        (*self.shape[:first], *shape, *self.shape[after:]), back, (*self.grains[:first], *grains, *self.grains[after:])
    )


def compared(left: Any, right: Any, positions: Any, numbers: Any) -> Value:
    """Return a comparison as 0 or 1: a guard for integers, a step function for real numbers."""
    a, b = as_value(left), as_value(right)
    if a.kind == b.kind == "integer" or (a.kind == "integer" and not b.shape) or (b.kind == "integer" and not a.shape):
        return pointwise(positions, a, b, kind="truth")
    if not any(v.at(tuple(sympy.Symbol(f"_{k}") for k, _ in enumerate(v.shape))).atoms(Indexed) for v in (a, b)):
        return pointwise(positions, a, b, kind="truth")
    if numbers is None:
        raise refuse("real numbers are compared for equality", "compare integers")
    return pointwise(numbers, a, b, kind="truth")


@rule("le")
def at_most(form: Forming, self: Any, other: Any) -> Value:
    """``a <= b``."""
    return compared(self, other, lambda a, b: not_negative(b - a), lambda a, b: sympy.Heaviside(b - a))


@rule("ge")
def at_least(form: Forming, self: Any, other: Any) -> Value:
    """``a >= b``."""
    return compared(self, other, lambda a, b: not_negative(a - b), lambda a, b: sympy.Heaviside(a - b))


@rule("lt")
def less(form: Forming, self: Any, other: Any) -> Value:
    """``a < b``."""
    return compared(self, other, lambda a, b: not_negative(b - a - 1), lambda a, b: sympy.Heaviside(b - a))


@rule("gt")
def greater(form: Forming, self: Any, other: Any) -> Value:
    """``a > b``."""
    return compared(self, other, lambda a, b: not_negative(a - b - 1), lambda a, b: sympy.Heaviside(a - b))


@rule("eq")
def equal(form: Forming, self: Any, other: Any) -> Value:
    """``a == b`` for integers, or for a mask of zeros and ones and a number."""
    a, b = as_value(self), as_value(other)
    if a.kind != "integer" and not b.shape and b.at(()) in (ZERO, ONE):
        return pointwise(lambda x: 1 - x, a, kind="truth") if b.at(()) == 0 else a
    return compared(a, b, KroneckerDelta, None)


@rule("ne")
def different(form: Forming, self: Any, other: Any) -> Value:
    """``a != b`` for integers."""
    return logical_not(form, equal(form, self, other))


@rule("logical_not", "bitwise_not")
def logical_not(form: Forming, self: Value) -> Value:
    """Logical negation."""
    return pointwise(lambda x: 1 - x, self, kind="truth")


@rule("logical_and", "bitwise_and", "__and__")
def logical_and(form: Forming, self: Value, other: Any) -> Value:
    """Logical conjunction."""
    return pointwise(lambda a, b: a * b, self, as_value(other), kind="truth")


@rule("logical_or", "bitwise_or", "__or__")
def logical_or(form: Forming, self: Value, other: Any) -> Value:
    """Logical disjunction."""
    return pointwise(lambda a, b: a + b - a * b, self, as_value(other), kind="truth")


@rule("where")
def where(form: Forming, condition: Value, self: Any, other: Any) -> Value:
    """One tensor where a condition holds, another elsewhere; entries of minus infinity are masked."""
    first, second = _low(as_value(self)), _low(as_value(other))
    if second.support is not None and not second.shape and first.support is None:
        return _masked(first, condition)
    if first.support is not None and not first.shape and second.support is None:
        return _masked(second, logical_not(form, condition))
    no_infinity(first, second)
    first, second = form.settle(first), form.settle(second)
    kind = "truth" if first.kind == second.kind == "truth" else "real"
    return pointwise(lambda c, a, b: c * a + (1 - c) * b, condition, first, second, kind=kind)


def _low(value: Value) -> Value:
    """Return a number far below every score (such as -1e9) as minus infinity."""
    if not value.shape and value.support is None and value.at(()).is_number and value.at(()) <= _LOW:
        return constant(-sympy.oo)
    return value


def _masked(value: Value, kept: Value) -> Value:
    """Return a tensor that is minus infinity where it is not kept."""
    shape, grains = broadcast_shape([value, kept])
    return Value(
        shape,
        lambda i: value.at(broadcast_at(value, i)),
        grains,
        "real",
        lambda i: kept.at(broadcast_at(kept, i)),
        value.name,
    )


@rule("masked_fill", "masked_fill_")
def masked_fill(form: Forming, self: Value, mask: Value, value: Any) -> Value:
    """The tensor with a number wherever a mask holds."""
    return where(form, mask, value, self)


def _triangle(value: Value, kept: Any) -> Value:
    support = None
    if value.support is not None:
        old = value.support

        def support(i: Indices) -> Expr:
            """Return 1 where an entry is finite, which includes the zeros outside the triangle."""
            inside = kept(i)
            return 1 - inside * (1 - old(i))

    return Value(value.shape, lambda i: kept(i) * value.at(i), value.grains, value.kind, support, value.name)


@rule("tril")
def tril(form: Forming, self: Value, diagonal: Expr = ZERO) -> Value:
    """The entries on and below a diagonal."""
    return _triangle(self, lambda i: not_negative(i[-2] - i[-1] + diagonal))


@rule("triu")
def triu(form: Forming, self: Value, diagonal: Expr = ZERO) -> Value:
    """The entries on and above a diagonal."""
    return _triangle(self, lambda i: not_negative(i[-1] - i[-2] - diagonal))


@rule("one_hot")
def one_hot(form: Forming, self: Value, num_classes: Expr) -> Value:
    """``z[.., c] = (t[..] == c)``."""
    if num_classes == -1:
        raise refuse("one_hot is called without a number of classes", "give num_classes")
    where_ = integers(self, "one_hot")
    return Value(
        (*where_.shape, num_classes),
        lambda i: KroneckerDelta(where_.at(i[:-1]), i[-1]),
        (*where_.grains, plain(num_classes)),
        "integer",
    )
