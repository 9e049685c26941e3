"""Reductions by this package's own rules: the value of a list of numbers, and the weight of each one's slope."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sympy import Expr

from derive.algebra.reductions import Largest, LogSumExp, Product
from derive.evaluation.functions import NotEvaluable

Number = Any
Rule = Callable[[Sequence[Number], bool], tuple[Number, Sequence[Number]]]
"""From the values, and whether slopes are needed, to the value and the weight of each slope."""


def _log_sum_exp(values: Sequence[Number], sloped: bool) -> tuple[Number, Sequence[Number]]:
    exponentials = [Decimal(v).exp() for v in values]
    total = sum(exponentials)
    if total == 0:
        raise NotEvaluable("the logarithm of an empty sum")
    return total.ln(), [e / total for e in exponentials]


def _largest(values: Sequence[Number], sloped: bool) -> tuple[Number, Sequence[Number]]:
    value = max(values)
    if sloped and sum(v == value for v in values) > 1:
        raise NotEvaluable("a corner: a tie of two values")
    return value, [int(v == value) for v in values]


def _product(values: Sequence[Number], sloped: bool) -> tuple[Number, Sequence[Number]]:
    others = [math.prod((*values[:k], *values[k + 1 :])) for k in range(len(values))] if sloped else []
    return math.prod(values), others


REDUCTIONS: Mapping[type[Expr], Rule] = {LogSumExp: _log_sum_exp, Largest: _largest, Product: _product}
