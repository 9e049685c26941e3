"""The normal form of indexed sums: two expressions that differ by renaming or reordering become the same object.

Shape of the normal form: a sum of monomials; a monomial is a number times powers of *atoms*; an atom is a symbol, a
tensor entry, a guard, a function or root of a normal form, or a *connected* ``IndexedSum``: its factors are all linked
through bound indices, its body is a monomial, and its bound indices are numbered canonically (``_h_p``: height h over
the sums inside, position p). A product of unconnected sums is therefore a product of atoms, and SymPy merges its
powers.

Not decided here: identities between rational functions and roots (``q/(q+1) + 1/(q+1) = 1``), see ``equality``; which
of several deltas between longer index expressions is solved for which index (the remaining guards may then differ).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Pow
from sympy.core.function import Application

from derive.algebra.eliminate import eliminate, free_indices, is_guard, signature, substitute_free_deltas
from derive.algebra.index import Index, Quotient, Remainder, bounds, has_division, size_name
from derive.algebra.nodes import (
    GUARDS,
    AtZero,
    Binder,
    Divides,
    IndexedSum,
    PartialDerivative,
    agree,
    entry,
    indices_in,
    rebuilt,
    rename,
    unused,
)
from derive.algebra.patience import go_on
from derive.algebra.reductions import Attains, Reduction, Softmax

_CACHE = 20_000
_MAX_PERMUTATIONS = 40_320


_known: dict[Expr, Expr] = {}


def normalise(expression: Expr) -> Expr:
    """Return the normal form of an expression; raise TypeError for a node that this language does not have.

    Such nodes are inert derivatives (carry them out first), ``sympy.Sum``, and SymPy's matrix expressions. Raises
    OutOfTime past a deadline (``patience``).
    """
    form = _known.get(expression)
    if form is None:
        go_on()
        if len(_known) > _CACHE:
            _known.clear()
        form = _normal_form(expression)
        _known[expression] = _known[form] = form
    return form


def _normal_form(expression: Expr) -> Expr:
    if isinstance(expression, PartialDerivative | AtZero):
        raise TypeError(f"carry out {type(expression).__name__} before normalising: {expression}")
    if isinstance(expression, Indexed):
        return entry(expression.base, *(_index(i) for i in expression.indices))
    if not expression.args or isinstance(expression, IndexedBase):
        return expression
    if isinstance(expression, KroneckerDelta) and expression.has(Remainder):
        return _congruence(*(_index(a) for a in expression.args))
    if isinstance(expression, KroneckerDelta):
        return _delta(*(_index(a) for a in expression.args))
    if isinstance(expression, GUARDS):
        return expression.func(*(_index(a) for a in expression.args))
    if isinstance(expression, Add):
        return Add(*(normalise(a) for a in expression.args))
    if isinstance(expression, Mul):
        return product([normalise(a) for a in expression.args])
    if isinstance(expression, Pow):
        return _power(normalise(expression.base), normalise(expression.exp))
    if isinstance(expression, IndexedSum):
        # From here on bound indices are not canonical: a canonical name could clash with the numbering of an inner sum.
        body, bound = expression.opened()
        return _sum(normalise(body), bound)
    if isinstance(expression, Reduction):
        return _reduction(expression)
    if isinstance(expression, sympy.sign):
        return _sign(normalise(expression.args[0]))
    if isinstance(expression, sympy.Heaviside):
        return _step(normalise(expression.args[0]))
    if not isinstance(expression, Application):
        raise TypeError(f"{type(expression).__name__} cannot occur in an indexed sum: {expression}")
    return rebuilt(expression, [normalise(a) for a in expression.args])


@lru_cache(maxsize=_CACHE)
def _delta(left: Expr, right: Expr) -> Expr:
    """Return a delta of two shifted indices: a delta of the indices alone, or 0 if their ranges do not overlap."""
    if not (left.is_Add or right.is_Add) or has_division(left) or has_division(right):
        return KroneckerDelta(left, right)
    difference = sympy.expand(left - right)
    low, high = bounds(difference)
    if low.is_positive or high.is_negative:
        return sympy.S.Zero
    terms = difference.args if difference.is_Add else ()
    plain = [t for t in (*terms, *(-t for t in terms)) if isinstance(t, Index)]
    if len(terms) == len(plain) == 2 and sympy.expand(difference - plain[0] + plain[1]) == 0:
        return KroneckerDelta(*plain)
    return KroneckerDelta(left, right)


def _congruence(left: Expr, right: Expr) -> Expr:
    """Return a delta of two remainders as a divisibility guard, or as a delta of their arguments."""
    alike = isinstance(left, Remainder) and isinstance(right, Remainder) and left.args[1] == right.args[1]
    if not alike:
        return KroneckerDelta(left, right)
    divisor, difference = left.args[1], sympy.expand(left.args[0] - right.args[0])
    low, high = bounds(difference)
    if sympy.expand(divisor + low).is_positive and sympy.expand(divisor - high).is_positive:
        return agree(left.args[0], right.args[0])
    return Divides(divisor, difference)


@lru_cache(maxsize=_CACHE)
def _index(expression: Expr) -> Expr:
    return expression if expression.is_Atom else sympy.expand(expression)


def _power(base: Expr, exponent: Expr) -> Expr:
    if exponent.is_Integer and exponent > 0:
        return product([base] * int(exponent)) if base.is_Add else tidy(base**exponent)
    if base.is_Add:
        content, primitive = _content(base)
        return content**exponent * primitive**exponent
    return base**exponent


def _content(base: Add) -> tuple[Expr, Expr]:
    """Split a sum into its content (the number and the powers of positive symbols in all terms) and the rest."""
    number, rest = base.as_content_primitive()
    powers = [term.as_powers_dict() for term in Add.make_args(rest)]
    common = sympy.S.One
    for symbol in sorted((s for s in rest.free_symbols if s.is_positive and s.is_Symbol), key=str):
        least = min((p.get(symbol, 0) for p in powers), default=0)
        if least != 0:
            common *= symbol**least
    return number * common, Add(*(term / common for term in Add.make_args(rest)))


def _sign(argument: Expr) -> Expr:
    """The sign of a product is the product of the signs; a guard is its own sign."""
    if argument.is_Mul:
        return tidy(Mul(*(_sign(a) for a in argument.args)))
    return argument if is_guard(argument) else sympy.sign(argument)


def _step(argument: Expr) -> Expr:
    """Return a step of a primitive argument: ``H(2 u) = H(u)`` and ``H(-u) = 1 - H(u)``."""
    primitive = argument.as_content_primitive()[1]
    if primitive.could_extract_minus_sign():
        return 1 - sympy.Heaviside(-primitive)
    return sympy.Heaviside(primitive)


def product(factors: Sequence[Expr]) -> Expr:
    """Return the normal form of a product of normal forms, multiplied out."""
    return Add(*(_multiplied(choice) for choice in itertools.product(*(Add.make_args(f) for f in factors))))


def _multiplied(choice: Sequence[Expr]) -> Expr:
    go_on()
    return tidy(Mul(*choice))


def tidy(monomial: Expr) -> Expr:
    """Return the normal form of a product of atoms: guards once, free deltas applied, merged powers multiplied out."""
    factors = _whole_places(_absolute([_once(f) for f in Mul.make_args(monomial)]))
    sums = [f for f in factors if f.is_Add or (f.is_Pow and f.base.is_Add and f.exp.is_Integer and f.exp > 0)]
    if sums:
        rest = [f for f in factors if f not in sums]
        copies = [f.base if f.is_Pow else f for f in sums for _ in range(int(f.exp) if f.is_Pow else 1)]
        return product([Mul(*rest), *copies])
    changed = substitute_free_deltas(factors)
    return Mul(*factors) if changed is None else normalise(Mul(*changed))


def _whole_places(factors: list[Expr]) -> list[Expr]:
    """Replace equal quotients and equal remainders of two positions by equality of the positions."""
    for guard in [f for f in factors if isinstance(f, Divides)]:
        divisor, difference = guard.args
        for delta in [f for f in factors if isinstance(f, KroneckerDelta)]:
            left, right = delta.args
            pair = isinstance(left, Quotient) and isinstance(right, Quotient) and left.args[1] == right.args[1]
            if (
                pair
                and left.args[1] == divisor
                and sympy.expand(left.args[0] - right.args[0]) in (difference, -difference)
            ):
                rest = [f for f in factors if f not in (guard, delta)]
                return _whole_places([*rest, agree(left.args[0], right.args[0])])
    return factors


def _absolute(factors: list[Expr]) -> list[Expr]:
    """Write ``x sign(x)`` as ``|x|``."""
    for sign in [f for f in factors if isinstance(f, sympy.sign) and f.args[0] in factors]:
        rest = [f for f in factors if f not in (sign, sign.args[0])]
        return _absolute([*rest, sympy.Abs(sign.args[0])])
    return factors


def _once(factor: Expr) -> Expr:
    """A guard and a step are 0 or 1, so their positive powers equal themselves (for a step, except where it jumps).

    A sign is 1 or -1, except at zero, where the function that has it as derivative has none.
    """
    if factor.is_Pow and isinstance(factor.base, sympy.sign) and factor.exp.is_Integer:
        return factor.base ** (factor.exp % 2)
    if factor.is_Pow and (is_guard(factor.base) or isinstance(factor.base, sympy.Heaviside)) and factor.exp.is_positive:
        return factor.base
    return factor


def _sum(body: Expr, bound: tuple[Index, ...]) -> Expr:
    return Add(*(_sum_monomial(term, bound) for term in Add.make_args(body)))


def _sum_monomial(monomial: Expr, bound: tuple[Index, ...]) -> Expr:
    """Sum one monomial over bound indices that no sum inside it binds."""
    factors, bound = _open(Mul.make_args(monomial), bound)
    eliminated = eliminate(factors, bound)
    if eliminated is not None:
        left, remaining = eliminated
        return _sum(normalise(Mul(*left)), remaining) if remaining else normalise(Mul(*left))
    used = set().union(*(free_indices(f) for f in factors)) if factors else set()
    count = Mul(*(index.size for index in bound if index not in used))
    outside = [f for f in factors if not free_indices(f) & set(bound)]
    inside = [f for f in factors if free_indices(f) & set(bound)]
    components = [_canonical(part, names) for part, names in connected(inside, bound)]
    return tidy(Mul(count, *outside, *components))


def _open(factors: Iterable[Expr], bound: tuple[Index, ...]) -> tuple[list[Expr], tuple[Index, ...]]:
    """Merge inner sums that depend on ``bound`` into the outer one, their bound indices renamed."""
    factors = list(factors)
    taken = set(bound).union(*(indices_in(f) for f in factors))
    flat: list[Expr] = []
    for factor in factors:
        base, exponent = factor.as_base_exp()
        inner = isinstance(base, IndexedSum) and exponent.is_Integer and exponent > 0
        if not (inner and free_indices(base) & set(bound)):
            flat.append(factor)
            continue
        for _ in range(int(exponent)):
            names = unused(base.bound, taken)
            opened, bound = _open(Mul.make_args(rename(base.body, names)), (*bound, *names.values()))
            taken |= set(bound)
            flat.extend(opened)
    return flat, bound


def connected(factors: Sequence[Expr], bound: Sequence[Index]) -> list[tuple[list[Expr], list[Index]]]:
    """Split factors into groups that share bound indices, each with the bound indices that it uses."""
    groups: list[tuple[list[Expr], frozenset[Index]]] = []
    for factor in factors:
        names = free_indices(factor) & set(bound)
        touching = [g for g in groups if g[1] & names]
        groups = [g for g in groups if not g[1] & names]
        merged = [f for g in touching for f in g[0]] + [factor]
        groups.append((merged, names.union(*(g[1] for g in touching))))
    return [(part, [i for i in bound if i in names]) for part, names in groups]


def height(expression: Expr) -> int:
    """Return the nesting depth of sums and other binders in an expression."""
    inner = max((height(a) for a in expression.args if isinstance(a, sympy.Basic)), default=0)
    return inner + 1 if isinstance(expression, Binder) else inner


def _canonical(factors: list[Expr], bound: list[Index]) -> Expr:
    """Return the connected sum with its bound indices numbered so that equal sums become the same object."""
    if _is_whole(factors, bound):
        return sympy.S.One
    level = 1 + max(height(f) for f in factors)
    best, names = _least(Mul(*factors), factors, bound, level)
    return IndexedSum(best, *names)


def _is_whole(factors: list[Expr], bound: list[Index]) -> bool:
    """Return whether a sum runs over all weights of one softmax, or all places that may attain one maximum."""
    place = factors[0].place if len(factors) == 1 and isinstance(factors[0], Softmax | Attains) else None
    return place is not None and len(place) == len(bound) and set(place.values()) == set(bound)


def _reduction(expression: Reduction) -> Expr:
    """Return the reduction of a normal form, with its bound indices numbered like those of sums."""
    opened, bound = expression.opened()
    body = normalise(opened)
    best, names = _least(body, Add.make_args(body), list(bound), 1 + height(body))
    return expression.func(best, *names)


def _least(body: Expr, parts: Sequence[Expr], bound: list[Index], level: int) -> tuple[Expr, tuple[Index, ...]]:
    """Return a body and its bound indices, numbered so that the text is the least in order."""
    groups = _by_signature(body, list(parts), bound)
    candidates = [_numbered(body, order, level) for order in _orders(groups)]
    return candidates[0] if len(candidates) == 1 else min(candidates, key=lambda pair: str(pair[0]))


def _numbered(body: Expr, order: Sequence[Index], level: int) -> tuple[Expr, tuple[Index, ...]]:
    names = tuple(Index(f"_{level}_{position}", i.size, -level) for position, i in enumerate(order))
    numbered = rename(body, dict(zip(order, names, strict=True)))
    # Renaming can change which index a delta inside a function replaces, so normalise again.
    return normalise(numbered) if numbered.has(KroneckerDelta) else numbered, names


def _by_size(index: Index) -> str:
    return size_name(index.size)


def _by_signature(body: Expr, factors: list[Expr], bound: list[Index]) -> list[list[Index]]:
    """Group bound indices that their sizes and their factors do not distinguish."""
    groups: list[list[Index]] = []
    for _, same_size in itertools.groupby(sorted(bound, key=_by_size), key=_by_size):
        alike = list(same_size)
        if len(alike) == 1:
            groups.append(alike)
            continue
        keyed = sorted(((signature(index, factors, bound), index) for index in alike), key=lambda pair: pair[0])
        groups += [[i for _, i in group] for _, group in itertools.groupby(keyed, key=lambda pair: pair[0])]
    return groups


def _orders(groups: list[list[Index]]) -> Iterable[list[Index]]:
    """Yield the numberings that respect the groups; past a limit only one, so that an equality may be missed."""
    count = sympy.prod(sympy.factorial(len(g)) for g in groups)
    if count > _MAX_PERMUTATIONS:
        return [[i for g in groups for i in g]]
    choices = itertools.product(*(itertools.permutations(g) for g in groups))
    return ([i for part in choice for i in part] for choice in choices)
