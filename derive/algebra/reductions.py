"""Reductions other than sums, under their own names, and the functions that their derivatives need.

LogSumExp(e, k)   log sum[k](exp(e))         d = sum[k](softmax d e)
Softmax(e, L)     exp(e - L)                 d = softmax (d e - d L)      L = LogSumExp(e, k) of the same scores
Largest(e, k)     max over k of e            d = sum[k](Attains(e, M) d e)
Product(e, k)     product over k of e        d = sum[m](d e[m] times the product of all others)
Masked(e, w)      e where w = 1, minus infinity where w = 0: such a score has no effect on these reductions
Attains(e, M)     1 where e is the largest, 0 elsewhere; at a tie there is no derivative, and nothing is claimed
"""

from __future__ import annotations

from itertools import product
from typing import Any

import sympy
from sympy import Expr, Indexed, KroneckerDelta, Mul

from derive.algebra.index import Index
from derive.algebra.nodes import Binder, IndexedSum, rename


class Reduction(Binder):
    """A binder that reduces its body over the bound indices."""

    def __new__(cls, body: Any, *bound: Index) -> Expr:
        """Return the reduction; zero bound indices leave the body alone."""
        body = sympy.sympify(body)
        if not bound:
            return body
        obj: Expr = Expr.__new__(cls, body, *bound)
        return obj

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the derivative of the reduction; ``moved`` is the derivative of ``body``, at fresh bound indices."""
        raise NotImplementedError


class LogSumExp(Reduction):
    """The logarithm of the sum of exponentials."""

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the sum of the derivatives, weighted by the softmax."""
        return IndexedSum(Softmax(body, self) * moved, *bound)


class Largest(Reduction):
    """The largest value."""

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the derivative of the entry that attains the maximum."""
        return IndexedSum(Attains(body, self) * moved, *bound)


class Product(Reduction):
    """The product of all values."""

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the product rule: each derivative times the product of all other factors."""
        others, own = self.renamed()
        here = Mul(*(KroneckerDelta(a, b) for a, b in zip(own, bound, strict=True)))
        return IndexedSum(Product(here + (1 - here) * others, *own) * moved, *bound)


class _OfTwo(sympy.Function):
    """A real function of two arguments."""

    nargs = 2
    is_real = True

    def _eval_is_real(self) -> bool:
        return True


class _Share(_OfTwo):
    """The weight of one score in a reduction; weights are at least 0 and add up to 1 over all scores."""

    is_nonnegative = True

    @property
    def place(self) -> dict[Index, Expr] | None:
        """Return the values of the reduction's bound indices at this score, if it is one of the reduction's scores."""
        score, whole = self.args
        if not isinstance(whole, LogSumExp | Largest):
            return None
        places = {place for entry in score.atoms(Indexed) for place in entry.indices}
        present = sorted(places, key=lambda place: (not isinstance(place, Index), str(place)))
        choices = [[p for p in present if not isinstance(p, Index) or p.size == b.size] for b in whole.bound]
        found = (dict(zip(whole.bound, choice, strict=True)) for choice in product(*choices))
        return next((at for at in found if rename(whole.body, at) == score), None)


class Softmax(_Share):
    """``Softmax(e, L)``: ``exp(e - L)``, the weight of a score among those whose ``LogSumExp`` is ``L``."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return the derivative: the softmax with respect to the score, minus the softmax with respect to ``L``."""
        return self if argindex == 1 else -self


class Masked(_OfTwo):
    """``Masked(e, w)``: a score that counts only where the guards ``w`` hold."""

    @classmethod
    def eval(cls, score: Expr, mask: Expr) -> Expr | None:
        """Drop a mask that holds everywhere."""
        return score if mask == 1 else None

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return the derivative with respect to the score; a masked score has softmax 0. Guards are constants."""
        return sympy.Integer(int(argindex == 1))


class Stopped(sympy.Function):
    """``Stopped(e)``: the value of ``e``, which a step holds fixed: it has no derivative."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return zero."""
        return sympy.S.Zero

    def _eval_is_nonnegative(self) -> bool | None:
        return self.args[0].is_nonnegative


class Attains(_Share):
    """``Attains(e, M)``: 1 where ``e`` equals the maximum ``M`` of its reduction, and 0 elsewhere."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return zero: it is constant wherever it has a derivative."""
        return sympy.S.Zero

    def _eval_power(self, exponent: Expr) -> Expr | None:
        return self if exponent.is_positive else None
