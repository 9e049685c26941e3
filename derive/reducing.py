"""Reductions of the formula language, and masks: ``sum[j](...)`` and similar forms.

    sum mean var norm prod max min logsumexp    of a body over the indices in the brackets, which they bind
    softmax[j](e)                               has a value for each ``j``, which is bound outside it: ``A[i, j] = ...``
    cumsum[j](e)                                the sum over all indices up to ``j``; likewise
    sum[j](e, j <= i)                           a condition as second argument: only where it holds
    where(j <= i, a, b)                         ``a`` where the condition holds, ``b`` elsewhere

``mean``, ``var``, ``norm`` and ``cumsum`` are sums; the others keep their names.
"""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import sympy
from sympy import Expr, Mul

from derive.algebra.index import Index
from derive.algebra.nodes import AtMost, IndexedSum, indices_in, rename
from derive.algebra.reductions import Largest, LogSumExp, Masked, Product, Softmax
from derive.excerpt import quote
from derive.indexing import Indexing, is_reduction, parts
from derive.names import MOST_AXES

_LETTERS = "klpqabcdeotuvwhfmnrijyz"
_SELECTING = ("max", "min", "logsumexp")
_OUTSIDE = ("softmax", "cumsum")  # they have a value for each index in their brackets


class Reducing(Indexing):
    """Arithmetic with tensors, indices and reductions; a formula says what an index ranges over."""

    @abstractmethod
    def bind(self, binder: ast.expr, body: ast.expr, declared: Expr | None = None) -> Index:
        """Bring the index that ``binder`` names into scope over ``body`` and return it."""

    def total(self, node: ast.Call, head: ast.Subscript) -> Expr:
        """Return ``sum[j, k](body)``, or another reduction; a second argument is a condition."""
        if not is_reduction(head):
            self.fail(head, f"{quote(self.text(head))} cannot be called", "write a product with *")
        word, binders = self.text(head.value), parts(head)
        if not 1 <= len(node.args) <= 2 or node.keywords:
            count = len(node.args) + len(node.keywords)
            self.fail(node, f"{word} has {count} arguments", "give it one, and if needed a condition on indices")
        if not 1 <= len(binders) <= MOST_AXES:
            self.fail(head, f"{word} has {len(binders)} indices", f"give it 1 to {MOST_AXES}, such as {word}[j](...)")
        if word in _OUTSIDE:
            return self._along(word, node, binders)
        outer = dict(self.scope)
        bound = [self.bind(binder, node.args[0]) for binder in binders]
        body, mask = self._body(node)
        self.scope = outer
        if word in _SELECTING:
            self._masked(node, body, mask)
        return _INSIDE[word](body, mask, bound)

    def choice(self, node: ast.Call) -> Expr:
        """Return ``where(condition, a, b)``: ``a`` where the condition holds, ``b`` elsewhere."""
        if len(node.args) != 3 or node.keywords:
            self.fail(node, "where does not have three arguments", "write where(j <= i, a, b)")
        holds = self.condition(node.args[0])
        one, other = self.read(node.args[1]), self.read(node.args[2])
        return holds * one + (1 - holds) * other

    def _along(self, word: str, node: ast.Call, binders: Sequence[ast.expr]) -> Expr:
        """Return a softmax or a running sum along indices that are bound outside."""
        here = [self._bound_outside(word, binder) for binder in binders]
        body, mask = self._body(node)
        taken = {*self.names.known, *self.scope, *(i.name for i in indices_in(body) | indices_in(mask))}
        free = (letter for letter in _LETTERS if letter not in taken)
        there = {index: Index(next(free), index.size) for index in here}
        if word == "softmax":
            score = self._masked(node, body, mask)
            return Softmax(score, LogSumExp(rename(score, there), *there.values()))
        before = Mul(*(AtMost(there[index], index) for index in here))
        return IndexedSum(rename(body * mask, there) * before, *there.values())

    def _bound_outside(self, word: str, binder: ast.expr) -> Index:
        if not isinstance(binder, ast.Name) or binder.id not in self.scope:
            fix = f"bind it first: on the left-hand side, as in A[i, j] = {word}[j](...), or in a sum around it"
            self.fail(binder, f"{word} has a value for each {quote(self.text(binder))}, which is not bound here", fix)
        return self.scope[binder.id]

    def _masked(self, node: ast.Call, body: Expr, mask: Expr) -> Expr:
        """Return scores with those left out for which a condition on indices does not hold."""
        if mask.has(sympy.Heaviside):
            fix = "use a condition on indices, or sums: where(u[j] > 0, exp(u[j]), 0)"
            self.fail(node.args[1], "this reduction cannot leave out scores by their values", fix)
        return Masked(body, mask)

    def _body(self, node: ast.Call) -> tuple[Expr, Expr]:
        """Return the body of a reduction and its condition, which is 1 if none is given."""
        return self.read(node.args[0]), self.condition(node.args[1]) if len(node.args) > 1 else sympy.S.One


Bound = Sequence[Index]


def _mean(body: Expr, mask: Expr, bound: Bound) -> Expr:
    count = Mul(*(i.size for i in bound)) if mask == 1 else IndexedSum(mask, *bound)
    return IndexedSum(body * mask, *bound) / count


def _variance(body: Expr, mask: Expr, bound: Bound) -> Expr:
    return _mean((body - _mean(body, mask, bound)) ** 2, mask, bound)


_INSIDE: Mapping[str, Callable[[Expr, Expr, Bound], Expr]] = {
    "sum": lambda body, mask, bound: IndexedSum(body * mask, *bound),
    "mean": _mean,
    "var": _variance,
    "norm": lambda body, mask, bound: sympy.sqrt(IndexedSum(body**2 * mask, *bound)),
    "prod": lambda body, mask, bound: Product(mask * body + 1 - mask, *bound),
    "max": lambda body, mask, bound: Largest(Masked(body, mask), *bound),
    "min": lambda body, mask, bound: -Largest(Masked(-body, mask), *bound),
    "logsumexp": lambda body, mask, bound: LogSumExp(Masked(body, mask), *bound),
}
