"""Turn a normal form into one that people read: sums pushed inwards, intermediates named, factors pulled out.

    sum[j,k,l](A[k] A[l] y[k,j] y[l,j])   ->   sum[j](sum[k](A[k] y[k,j])^2)
    sum[h](u[t,h]^2)                      ->   q[t]          where q is an intermediate with that definition
    sum[j](y[j]^2)                        ->   n             where the definition of y makes it so

Every rewriting is an equality; the check of the step that contains the result covers it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from sympy import Add, Expr, Indexed, IndexedBase, Mul, Pow

from derive.algebra.differentiate import expand_definitions
from derive.algebra.eliminate import free_indices
from derive.algebra.equality import factored
from derive.algebra.index import Index
from derive.algebra.named import Named
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise
from derive.algebra.reductions import Reduction, Softmax

if TYPE_CHECKING:
    from derive.forward_map import Definition

Scope = Mapping[IndexedBase, "Definition"]
_MAX_TRIES = 500
_MOST_INDICES = 6  # sums over more are not multiplied out to search for a constant: their indices have too many orders


def presentable(expression: Expr, scope: Scope) -> Expr:
    """Return the shortest of the equal forms found: plain or factored, with intermediates named where they occur."""
    memory: dict[Expr, Expr] = {}

    def name(atom: Expr) -> Expr:
        """Return the name of an atom, the same each time."""
        if atom not in memory:
            memory[atom] = _named(atom, scope)
        return memory[atom]

    named = _fold_powers(_on_sums(_fold_functions(expression, scope), name), scope)
    short = factored(named)
    if short == named:
        return named
    return min(short, named, key=lambda e: (e.count_ops() + len(e.atoms(IndexedSum)), str(e)))


def _on_sums(expression: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Apply a rewriting to every outermost sum."""
    if isinstance(expression, IndexedSum):
        return change(expression)
    if not expression.args or isinstance(expression, Indexed | IndexedBase):
        return expression
    return expression.func(*(_on_sums(a, change) if isinstance(a, Expr) else a for a in expression.args))


def _named(atom: Expr, scope: Scope) -> Expr:
    """Return the constant, the intermediate or the nested sum that a sum equals, or the sum itself."""
    constant = _constant(atom, scope)
    if constant is not None:
        return constant
    folded = fold(atom, scope)
    return nested(atom) if folded is None else folded


def _constant(atom: Expr, scope: Scope) -> Expr | None:
    """Return the value of a sum that the definitions make constant; expands products, outermost first."""
    names = [
        base for base in reversed(scope) if base in atom.atoms(IndexedBase) and not scope[base].expression.has(Add)
    ]
    for count in range(1, len(names) + 1):
        expanded = expand_definitions(atom, {base: scope[base] for base in names[:count]})
        if _indices(expanded) > _MOST_INDICES:
            return None
        outer = normalise(expanded)
        inner = normalise(_on_sums(outer, lambda part: _folded(part, scope)))
        if not inner.atoms(Indexed):
            return inner
    return None


def _indices(expression: Expr) -> int:
    """Return how many bound indices one term has once sums are merged and powers multiplied out."""
    if isinstance(expression, IndexedSum):
        return len(expression.bound) + _indices(expression.body)
    if expression.is_Pow and expression.exp.is_Integer and expression.exp > 0:
        return int(expression.exp) * _indices(expression.base)
    parts = [_indices(a) for a in expression.args if isinstance(a, Expr)]
    return sum(parts) if expression.is_Mul else max(parts, default=0)


def _folded(atom: Expr, scope: Scope) -> Expr:
    """Return a sum with intermediates in place of itself, or of the inner sums that nesting reveals."""
    entry = fold(atom, scope)
    if entry is not None or len(atom.bound) < 2:
        return atom if entry is None else entry
    pushed = push_inwards(atom)
    return IndexedSum(_on_sums(pushed.body, lambda part: _folded(normalise(part), scope)), *pushed.bound)


def fold(atom: Expr, scope: Scope) -> Expr | None:
    """Return the intermediate whose definition is a number times this sum (divided by that number), or None."""
    for definition in scope.values():
        body = normalise(definition.expression)
        coefficient, rest = _split_sum(body)
        if rest is None or rest.atoms(IndexedBase) != atom.atoms(IndexedBase):
            continue
        for values in _candidates(definition, atom):
            if normalise(rename(rest, dict(zip(definition.indices, values, strict=True)))) == atom:
                return definition.base[values] / coefficient if definition.indices else definition.base / coefficient
    return None


def _split_sum(body: Expr) -> tuple[Expr, Expr | None]:
    factors = Mul.make_args(body)
    sums = [f for f in factors if isinstance(f, IndexedSum)]
    rest = Mul(*(f for f in factors if not isinstance(f, IndexedSum)))
    return (rest, sums[0]) if len(sums) == 1 and not rest.atoms(Indexed, Index) else (rest, None)


def _candidates(definition: Definition, atom: Expr) -> Iterator[tuple[Expr, ...]]:
    """Yield index values that occur in the atom and run over the definition's axes."""
    present = sorted(free_indices(atom), key=Index.sort_key)
    choices = [[i for i in present if i.size == index.size] for index in definition.indices]
    return itertools.islice(itertools.product(*choices), _MAX_TRIES)


def _fold_functions(expression: Expr, scope: Scope) -> Expr:
    """Replace ``softmax[u](S[t, u])``, or another named function, by the intermediate that it defines."""
    for definition in scope.values():
        body = normalise(definition.expression)
        if not isinstance(body, _WITH_NAMES) or not expression.has(type(body)):
            continue
        known: dict[Expr, Expr] = {}
        for atom in expression.atoms(type(body)):
            for values in _candidates(definition, atom):
                if rename(body, dict(zip(definition.indices, values, strict=True))) == atom:
                    known[atom] = definition.base[values]
                    break
        expression = expression.xreplace(known) if known else expression
    return expression


_WITH_NAMES = (Named, Reduction, Softmax)


def _fold_powers(expression: Expr, scope: Scope) -> Expr:
    """Write ``1 + exp(-v)`` as ``1/h`` where ``h = 1/(1 + exp(-v))`` is an intermediate."""
    for definition in scope.values():
        body = normalise(definition.expression)
        if not (isinstance(body, Pow) and body.base.is_Add and body.exp.is_Integer):
            continue
        for values in _candidates(definition, expression):
            at = dict(zip(definition.indices, values, strict=True))
            base = normalise(rename(body.base, at))
            entry = definition.base[values]
            expression = _replace_powers(expression, base, body.exp, entry)
    return expression


def _replace_powers(expression: Expr, base: Expr, exponent: Expr, entry: Expr) -> Expr:
    """Write powers of ``base`` as powers of ``entry = base**exponent``."""
    return expression.replace(
        lambda e: e.is_Pow and e.base == base and (e.exp / exponent).is_Integer,
        lambda e: entry ** (e.exp / exponent),
    )


def nested(atom: Expr) -> Expr:
    """Push sums inwards where that reveals the square of a sum."""
    if not isinstance(atom, IndexedSum) or len(atom.bound) < 2:
        return atom
    # Which index must stay outside depends on the sum, so each is tried.
    for outermost in range(len(atom.bound)):
        pushed = push_inwards(atom, outermost)
        if any(f.is_Pow and isinstance(f.base, IndexedSum) for f in Mul.make_args(pushed.body)):
            return pushed
    return atom


def push_inwards(atom: IndexedSum, outermost: int | None = None) -> IndexedSum:
    """Sum each bound index over the factors that depend on it; at least one index, or the given one, stays outside."""
    body, bound = atom.opened()
    factors = list(Mul.make_args(body))
    outer = None if outermost is None else bound[outermost]
    for index in sorted(bound, key=lambda i: (i == outer, _share(i, factors), i.name)):
        carrying = [f for f in factors if index in free_indices(f)]
        others = [f for f in factors if index not in free_indices(f)]
        if not others:
            continue
        inner = normalise(IndexedSum(Mul(*carrying), index))
        factors = list(Mul.make_args(Mul(*others, inner)))
        bound = tuple(i for i in bound if i != index)
    pushed: IndexedSum = IndexedSum(Mul(*factors), *bound)
    return pushed


def _share(index: Index, factors: list[Expr]) -> int:
    return sum(index in free_indices(f) for f in factors)
