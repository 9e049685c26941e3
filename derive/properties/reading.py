"""The features of the inputs that a layer's parameters multiply, and whether they determine the inputs.

A feature is the factor of one parameter entry: ``x[s, j]`` in an affine map, ``tanh(x[s, c, p + k])`` in a convolution
of squashed pixels. If it is an invertible function of one input entry, it determines that entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum

import sympy
from sympy import Add, Expr, Indexed, KroneckerDelta, Mul, Pow, Symbol

from derive.algebra.differentiate import differentiate
from derive.algebra.eliminate import is_guard
from derive.algebra.index import Index
from derive.algebra.nodes import GUARDS, IndexedSum
from derive.algebra.normal import normalise
from derive.backward_pass import entry_of, free_letters
from derive.forward_map import BATCH, Layer, Tensor


class Cover(IntEnum):
    """How much of an input is determined: nothing known, the entries that a window reads, or every entry."""

    NONE = 0
    WINDOW = 1
    EVERY = 2


def real_inputs(layer: Layer) -> tuple[Tensor, ...]:
    """Return the inputs that hold real numbers."""
    return tuple(t for t in layer.inputs if t.values is None)


def features(layer: Layer, parts: Mapping[str, Expr], weights: Iterable[str]) -> tuple[Expr, ...]:
    """Return the factor of one entry of each given parameter: the derivative of its part of the output."""
    letters = free_letters(layer)
    slopes = (
        normalise(differentiate(parts[name], entry_of(layer.parameter(name), letters), layer.scope)) for name in weights
    )
    return tuple(dict.fromkeys(_without_units(slope, layer) for slope in slopes))


def _without_units(slope: Expr, layer: Layer) -> Expr:
    """Return a derivative without the deltas that join an index of the parameter to one of the output."""
    terms = [(_joins(term, layer), term) for term in Add.make_args(slope)]
    if len({joins for joins, _ in terms}) > 1:
        return slope
    return Add(*(Mul(*(f for f in Mul.make_args(term) if f not in joins)) for joins, term in terms))


def _joins(term: Expr, layer: Layer) -> frozenset[Expr]:
    deltas = [f for f in Mul.make_args(term) if isinstance(f, KroneckerDelta) and f.has(*layer.output.indices)]
    return frozenset(f for f in deltas if all(isinstance(a, Index) for a in f.args))


def covered(layer: Layer, expressions: Iterable[Expr]) -> Cover:
    """Return how much of all real inputs is determined by known expressions, each at every index."""
    best = {t.base: Cover.NONE for t in real_inputs(layer)}
    axes = {t.base: t.axes for t in layer.inputs}
    for expression in expressions:
        entry = single_entry(expression, layer)
        if entry is not None and _invertible(_in_symbol(expression, entry)):
            best[entry.base] = max(best[entry.base], _cover(entry, axes[entry.base]))
    return min(best.values(), default=Cover.NONE)


def single_entry(expression: Expr, layer: Layer) -> Indexed | None:
    """Return the one input entry of an expression without sums; None if there are none or several."""
    inputs = {t.base for t in layer.inputs}
    entries = [e for e in expression.atoms(Indexed) if e.base in inputs]
    alone = len(entries) == 1 and entries[0].base in {t.base for t in real_inputs(layer)}
    return entries[0] if alone and not expression.has(IndexedSum) else None


_u = Symbol("u", real=True)


def _in_symbol(expression: Expr, entry: Indexed) -> Expr:
    """Return a function of the symbol u in place of the entry, without guards: nothing is read where they fail."""
    guarded = {e: _without_guards(e) for e in expression.atoms(Mul) if entry in e.args}
    return _without_guards(expression.xreplace(guarded)).xreplace({entry: _u})


def _without_guards(product: Expr) -> Expr:
    return Mul(*(f for f in Mul.make_args(product) if not is_guard(f)))


def _cover(entry: Indexed, axes: tuple[Expr, ...]) -> Cover:
    own = list(zip(entry.indices, axes, strict=True))
    own = own[1:] if entry.indices[0] == BATCH else own
    plain = all(isinstance(i, Index) and i.size == size for i, size in own)
    if plain and len({i for i, _ in own}) == len(own):
        return Cover.EVERY
    windows = all(i.atoms(Index) for i, _ in own) and any(not isinstance(i, Index) for i, _ in own)
    return Cover.WINDOW if windows else Cover.NONE


def _invertible(function: Expr) -> bool:
    """Return whether a function of u takes no value twice, judged by its outermost operation."""
    if function == _u:
        return True
    if function.has(*GUARDS):
        return False
    if isinstance(function, Add | Mul):
        constant, moving = function.as_independent(_u, as_Add=function.is_Add)
        if function.is_Mul and not constant.is_nonzero:
            return False
        if function.is_Add and isinstance(moving, Add):
            ways = {_way(term) for term in moving.args}
            return len(ways) == 1 and None not in ways
        return moving != function and _invertible(moving)
    if isinstance(function, Pow) and not function.exp.has(_u):
        odd = function.exp.is_Integer and function.exp.is_odd
        root = function.exp.is_Rational and function.exp.q != 1
        return bool(odd or root) and _invertible(function.base)
    rising = isinstance(function, sympy.exp | sympy.log | sympy.tanh | sympy.sinh | sympy.atan)
    return rising and _invertible(function.args[0])


def _way(function: Expr) -> int | None:
    """Return 1 for a function that increases with u everywhere, -1 for one that decreases, None if neither is known."""
    if function == _u:
        return 1
    if isinstance(function, Mul | Add):
        constant, moving = function.as_independent(_u, as_Add=function.is_Add)
        if function.is_Add:
            ways = {_way(term) for term in Add.make_args(moving)}
            return ways.pop() if len(ways) == 1 else None
        inner = None if moving == function else _way(moving)
        sign = 1 if constant.is_positive else -1 if constant.is_negative else None
        return None if inner is None or sign is None else inner * sign
    if isinstance(function, Pow):
        odd = function.exp.is_Integer and function.exp.is_odd and function.exp.is_positive
        return _way(function.base) if odd else None
    rising = isinstance(function, sympy.exp | sympy.log | sympy.tanh | sympy.sinh | sympy.atan)
    return _way(function.args[0]) if rising else None


def zeros(layer: Layer, read: Iterable[Expr]) -> tuple[Expr, ...]:
    """Return expressions that all vanish where all features vanish, solved for an entry where possible.

    Return nothing if some feature vanishes nowhere.
    """
    found: list[Expr] = []
    for whole in read:
        # A positive factor or a factor of the denominator vanishes nowhere.
        kept = (f for f in Mul.make_args(whole) if not (f.is_nonzero or f.is_positive or _inverse(f)))
        feature = Mul(*kept)
        entry = single_entry(feature, layer)
        if entry is None:
            found.append(feature)
            continue
        function = _in_symbol(feature, entry)
        roots = _roots(function)
        if roots is None:
            found.append(function.xreplace({_u: entry}))
        elif not roots:
            return ()
        else:
            found.append(entry - roots[0])
    return tuple(dict.fromkeys(found))


def _inverse(factor: Expr) -> bool:
    return bool(factor.is_Pow and factor.exp.is_negative)


def unread(layer: Layer, output: Expr) -> bool:
    """Return whether some entries of a real input are certainly never read: single places, or gaps between windows."""
    for declared in real_inputs(layer):
        entries = [e for e in output.atoms(Indexed) if e.base == declared.base]
        for axis, size in enumerate(declared.axes):
            if entries and all(_leaves_out(e.indices[axis], size, layer) for e in entries):
                return True
    return False


def _leaves_out(place: Expr, size: Expr, layer: Layer) -> bool:
    """Whether a place cannot reach every position of its axis, whatever its indices are."""
    if not place.atoms(Index):
        return size != 1
    outer = [i for i in layer.output.indices if place.has(i)]
    inner = [i for i in place.atoms(Index) if i not in outer]
    if len(outer) != 1 or not all(i.size.is_Integer for i in inner):
        return False
    steps = [sympy.expand(place).coeff(i) for i in (*outer, *inner)]
    if not all(step.is_Integer for step in steps):
        return False
    reached = sum(abs(int(step)) * (int(i.size) - 1) for step, i in zip(steps[1:], inner, strict=True))
    return bool(abs(steps[0]) > reached + 1)


def _roots(function: Expr) -> tuple[Expr, ...] | None:
    """Return the one zero of a function of u, none, or None if it has several or they are unknown."""
    if function.is_positive or function.is_negative:
        return ()
    try:
        solved = sympy.solveset(function, _u, sympy.S.Reals)
    except (NotImplementedError, ValueError, TypeError):
        return None
    if solved is sympy.S.EmptySet:
        return ()
    return tuple(solved) if isinstance(solved, sympy.FiniteSet) and len(solved) == 1 else None
