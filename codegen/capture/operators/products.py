"""Matrix products: each is a sum of products over the axes that the result lacks."""

from __future__ import annotations

import string
from typing import Any

import sympy
from sympy import Expr

from codegen.capture.errors import refuse
from codegen.capture.forming import Forming
from codegen.capture.operators.table import rule
from codegen.capture.values import (
    ONE,
    Value,
    axis,
    broadcast,
    broadcast_shape,
    constant,
    pointwise,
    reshaped,
    selected,
    with_axis,
)


def plus(*values: Value) -> Value:
    """Return the sum of tensors, broadcast."""
    return pointwise(lambda *entries: sympy.Add(*entries), *values)


def times(number: Expr, value: Value) -> Value:
    """Return a number times a tensor."""
    return value if number == 1 else pointwise(lambda entry: number * entry, value)


@rule("linear")
def linear(form: Forming, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """``z[.., i] = sum[j](W[i, j] x[.., j]) + b[i]``."""
    lead = [f"s{k}" for k in range(len(input.shape) - 1)]
    out = ["i"] if len(weight.shape) == 2 else []
    product = form.contract([(weight, [*out, "j"]), (input, [*lead, "j"])], [*lead, *out])
    return product if bias is None else plus(product, bias)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(
    form: Forming,
    self: Value,
    other: Value | None = None,
    mat2: Value | None = None,
    vec: Value | None = None,
    tensor: Value | None = None,
) -> Value:
    """``z[.., i, k] = sum[j](a[.., i, j] b[.., j, k])``, leading axes broadcast."""
    right = next(v for v in (other, mat2, vec, tensor) if v is not None)
    left, squeezed = self, []
    if len(left.shape) == 1:
        left, squeezed = with_axis(left, 0), [-2]
    if len(right.shape) == 1:
        right, squeezed = with_axis(right, 1), [*squeezed, -1]
    lead, _ = broadcast_shape([_lead(left), _lead(right)])
    left = broadcast(left, (*lead, *left.shape[-2:]))
    right = broadcast(right, (*lead, *right.shape[-2:]))
    names = [f"s{k}" for k in range(len(lead))]
    found = form.contract([(left, [*names, "i", "j"]), (right, [*names, "j", "k"])], [*names, "i", "k"])
    for dim in squeezed:
        found = selected(found, axis(dim, len(found.shape)), sympy.S.Zero)
    return found


def _lead(value: Value) -> Value:
    return Value(value.shape[:-2], lambda i: sympy.S.Zero, value.grains[:-2])


@rule("addmm", "addmv", "baddbmm", "addbmm")
def addmm(form: Forming, self: Value, beta: Expr = sympy.S.One, alpha: Expr = sympy.S.One, **factors: Any) -> Value:
    """``beta c + alpha a b``."""
    left, right = factors.values()
    return plus(times(beta, self), times(alpha, matmul(form, left, right)))


@rule("outer", "ger")
def outer(form: Forming, self: Value, vec2: Value) -> Value:
    """``z[i, j] = a[i] b[j]``."""
    return form.contract([(self, ["i"]), (vec2, ["j"])], ["i", "j"])


@rule("einsum")
def einsum(form: Forming, equation: str, tensors: tuple[Value, ...], path: Any = None) -> Value:
    """The sum of products that the equation states."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in string.ascii_letters if c not in equation]
    dots = max(
        (len(v.shape) - len(t.replace("...", "")) for t, v in zip(terms, tensors, strict=True) if "..." in t), default=0
    )
    lead = spare[:dots]
    labels = []
    for term, value in zip(terms, tensors, strict=True):
        own = len(value.shape) - len(term.replace("...", ""))
        before, _, after = term.partition("...")
        labels.append([*before, *(lead[dots - own :] if "..." in term else ()), *after])
    if arrow:
        before, _, after = right.partition("...")
        output = [*before, *(lead if "..." in right else ()), *after]
    else:
        counts = [c for part in labels for c in part]
        output = [*lead, *sorted(c for c in set(counts) if counts.count(c) == 1 and c not in lead)]
    return form.contract(list(zip(tensors, labels, strict=True)), output)


@rule("bilinear")
def bilinear(form: Forming, input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    """``z[.., o] = sum[i, j](x[.., i] W[o, i, j] y[.., j]) + b[o]``."""
    lead = [f"s{k}" for k in range(len(input1.shape) - 1)]
    parts = [(input1, [*lead, "i"]), (weight, ["o", "i", "j"]), (input2, [*lead, "j"])]
    found = form.contract(parts, [*lead, "o"])
    return found if bias is None else plus(found, bias)


@rule("tensordot")
def tensordot(form: Forming, self: Value, other: Value, dims_self: Any, dims_other: Any) -> Value:
    """The sum over pairs of axes."""
    mine, theirs = [f"a{k}" for k in range(len(self.shape))], [f"b{k}" for k in range(len(other.shape))]
    for a, b in zip(dims_self, dims_other, strict=True):
        theirs[axis(b, len(theirs))] = mine[axis(a, len(mine))]
    shared = set(mine) & set(theirs)
    output = [x for x in (*mine, *theirs) if x not in shared]
    return form.contract([(self, mine), (other, theirs)], output)


@rule("cosine_similarity")
def cosine_similarity(form: Forming, x1: Value, x2: Value, dim: Expr, eps: Expr) -> Value:
    """The inner product of two tensors along an axis over the product of their norms."""
    from codegen.capture.operators.pointwise import maximum, root
    from codegen.capture.operators.reductions import total, without

    count = max(len(x1.shape), len(x2.shape))
    x1, x2 = (broadcast(x, [ONE] * (count - len(x.shape)) + list(x.shape)) for x in (x1, x2))
    product = form.settle(total(form, pointwise(lambda a, b: a * b, x1, x2), [dim]))
    lengths = [
        form.settle(
            maximum(root(form.settle(total(form, pointwise(lambda a: a**2, form.settle(x)), [dim]))), constant(eps))
        )
        for x in (x1, x2)
    ]
    return without(pointwise(lambda p, a, b: p / (a * b), product, *lengths), [axis(dim, count)])


@rule("kron")
def kron(form: Forming, self: Value, other: Value) -> Value:
    """``z[i c + k, j d + l] = A[i, j] B[k, l]``."""
    count = max(len(self.shape), len(other.shape))
    left, right = (broadcast(x, [ONE] * (count - len(x.shape)) + list(x.shape)) for x in (self, other))
    for k in range(count):
        left, right = with_axis(left, 2 * k + 1), with_axis(right, 2 * k)
    product = pointwise(lambda a, b: a * b, form.factor(left), form.factor(right))
    return reshaped(product, form.shape, form.size)


@rule("cdist")
def distances(form: Forming, x1: Value, x2: Value, p: Expr, compute_mode: Any) -> Value:
    """The distance of order 2 of every row of one tensor from every row of another."""
    from codegen.capture.operators.reductions import total, without

    if p != 2:
        raise refuse(f"a distance has order {p}", "call torch.cdist with p=2, or write the distance out")
    count = len(x1.shape)
    apart = pointwise(lambda a, b: (a - b) ** 2, with_axis(x1, count - 1), with_axis(x2, len(x2.shape) - 2))
    return pointwise(sympy.sqrt, form.settle(without(total(form, form.settle(apart), [-1]), [count])))


def refuse_complex(what: str) -> Exception:
    """Return the refusal of complex numbers."""
    return refuse(f"{what} makes complex numbers", "write the rotation with cosines and sines of real numbers")
