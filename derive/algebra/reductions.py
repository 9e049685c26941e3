"""Reductions that are no sums, under their own names, and the functions that their derivatives need.

LogSumExp(e, k)   log sum[k](exp(e))         d = sum[k](softmax d e)
Softmax(e, L)     exp(e - L)                 d = softmax (d e - d L)      L = LogSumExp(e, k) of the same scores
Largest(e, k)     max over k of e            d = sum[k](Attains(e, M) d e)
Product(e, k)     product over k of e        d = sum[m](d e[m] times the product of all others)
Masked(e, w)      e where w = 1, minus infinity where w = 0: no part of any of these
Attains(e, M)     1 where e is the largest, 0 elsewhere; where two are, there is no derivative and nothing is claimed
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
        """Return the reduction; none over no index."""
        body = sympy.sympify(body)
        if not bound:
            return body
        obj: Expr = Expr.__new__(cls, body, *bound)
        return obj

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the derivative, where ``moved`` is that of ``body``, which stands here under fresh bound indices."""
        raise NotImplementedError


class LogSumExp(Reduction):
    """The logarithm of the sum of exponentials."""

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the sum of slopes weighted by the softmax."""
        return IndexedSum(Softmax(body, self) * moved, *bound)


class Largest(Reduction):
    """The largest value."""

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the slope where the largest value is attained."""
        return IndexedSum(Attains(body, self) * moved, *bound)


class Product(Reduction):
    """The product of all values."""

    def slope(self, body: Expr, bound: tuple[Index, ...], moved: Expr) -> Expr:
        """Return the product rule: each slope times the product of all others."""
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
    """What one score is to the whole of which it is a part; both are 0 at least, and add up to 1 over the whole."""

    is_nonnegative = True

    @property
    def place(self) -> dict[Index, Expr] | None:
        """What the bound indices of the whole are at this score, if the score is one of the whole's."""
        score, whole = self.args
        if not isinstance(whole, LogSumExp | Largest):
            return None
        places = {place for entry in score.atoms(Indexed) for place in entry.indices}
        present = sorted(places, key=lambda place: (not isinstance(place, Index), str(place)))
        choices = [[p for p in present if not isinstance(p, Index) or p.size == b.size] for b in whole.bound]
        found = (dict(zip(whole.bound, choice, strict=True)) for choice in product(*choices))
        return next((at for at in found if rename(whole.body, at) == score), None)


class Softmax(_Share):
    """``Softmax(e, L)``: ``exp(e - L)``, the share of one score in the whole whose ``LogSumExp`` is ``L``."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return the derivative: itself by the score, minus itself by the whole."""
        return self if argindex == 1 else -self


class Masked(_OfTwo):
    """``Masked(e, w)``: a score that counts only where the guards ``w`` hold."""

    @classmethod
    def eval(cls, score: Expr, mask: Expr) -> Expr | None:
        """A mask that holds everywhere is none."""
        return score if mask == 1 else None

    def fdiff(self, argindex: int = 1) -> Expr:
        """Return the slope of the score; where it is masked its softmax is 0 beside it. Guards are constants."""
        return sympy.Integer(int(argindex == 1))


class Stopped(sympy.Function):
    """``Stopped(e)``: the value of ``e``, which a step holds fixed: it has no derivative."""

    nargs = 1
    is_real = True

    def fdiff(self, argindex: int = 1) -> Expr:
        """Nothing moves it."""
        return sympy.S.Zero

    def _eval_is_nonnegative(self) -> bool | None:
        return self.args[0].is_nonnegative


class Attains(_Share):
    """``Attains(e, M)``: 1 where ``e`` equals ``M``, the largest of which it is one, and 0 elsewhere."""

    def fdiff(self, argindex: int = 1) -> Expr:
        """It is constant wherever it has a derivative."""
        return sympy.S.Zero

    def _eval_power(self, exponent: Expr) -> Expr | None:
        return self if exponent.is_positive else None
