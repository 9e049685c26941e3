"""Every small mistake that can be made in an expression, one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul

from derive.algebra.index import Index
from derive.algebra.nodes import Divides, IndexedSum, Within, tensor

Mutant = tuple[str, Expr]


def mutants(expression: Expr) -> Iterator[Mutant]:
    """Each mutant of an expression with the name of the mistake: at the root first, then inside every argument."""
    yield from _here(expression)
    if isinstance(expression, Indexed | IndexedBase | KroneckerDelta | Within | Divides) or not expression.args:
        return
    for position, argument in enumerate(expression.args):
        if isinstance(expression, IndexedSum) and position > 0:
            break
        for name, changed in mutants(argument):
            arguments = [*expression.args[:position], changed, *expression.args[position + 1 :]]
            yield name, expression.func(*arguments)


def _here(expression: Expr) -> Iterator[Mutant]:
    if isinstance(expression, Add):
        for term in expression.args:
            yield "a term dropped", expression - term
            yield "a sign", expression - 2 * term
    elif isinstance(expression, Mul):
        for factor in expression.args:
            name = "a guard dropped" if isinstance(factor, Within | Divides) else "a factor dropped"
            name = "a delta dropped" if isinstance(factor, KroneckerDelta) else name
            yield name, Mul(*(a for a in expression.args if a is not factor))
    elif isinstance(expression, IndexedSum):
        yield from _ranges(expression)
    elif isinstance(expression, Indexed):
        yield from _entries(expression)
    elif isinstance(expression, KroneckerDelta | Within | Divides):
        first, second = expression.args
        yield "an offset in a guard", expression.func(first, second + 1)
        yield "an offset in a guard", expression.func(first + 1, second)
    elif expression.is_Pow:
        yield "an exponent", expression.base ** (expression.exp + 1)
    elif expression.is_Rational:
        yield "a coefficient", expression + 1
        yield "a sign", -expression


def _ranges(total: IndexedSum) -> Iterator[Mutant]:
    for index in total.bound:
        others = [i for i in total.bound if i != index]
        for size in (index.size - 1, index.size + 1):
            shifted = Index(index.name, size, index.tag)
            yield "a range off by one", IndexedSum(total.body.xreplace({index: shifted}), *others, shifted)


def _entries(entry: Indexed) -> Iterator[Mutant]:
    indices = entry.indices
    yield "another tensor", tensor(f"{entry.base.label}_other")[indices]
    for position, index in enumerate(indices):
        yield "an index off by one", entry.base[(*indices[:position], index + 1, *indices[position + 1 :])]
        primed = {i: Index(i.name[:-1], i.size, i.tag) for i in index.atoms(Index) if i.name.endswith("'")}
        if primed:
            yield "another sample", entry.base[(*indices[:position], index.xreplace(primed), *indices[position + 1 :])]
        if position and index != indices[position - 1] and isinstance(index, Index):
            swapped = (*indices[: position - 1], index, indices[position - 1], *indices[position + 1 :])
            yield "indices swapped", entry.base[swapped]


def whole(expression: Expr) -> Iterator[Mutant]:
    """Mistakes in an expression as a whole."""
    yield "a sign", -expression
    yield "a coefficient", 2 * expression
    yield "an exponent", expression**2
    yield "a term too many", expression + sympy.S.One
    yield "nothing at all", sympy.S.Zero
