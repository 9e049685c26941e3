"""The expected spread of a self factor over samples, from the statistics of the inputs alone (theory, section 10).

    F                      the self factor of a sample, a polynomial in the entries of its inputs
    E[x1 x2 .. xn]         sum over partitions of the entries: per block a cumulant, and deltas of its entries
    E[F], Var[F]           by that rule, term by term, with the deltas eliminated
    CV                     sqrt(Var F)/E F

    gaussian     independent entries N(0, v): pairs only
    relu         independent entries max(g, 0), g normal of mean 0, E[x^2] = v
    covariance   Gaussian with covariance C[.., ..] of a sample's entries

Parameters are held fixed: a self factor that depends on them has a spread for given parameters. For a full matrix
over units, F is the mean of its diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy
from sympy import Add, Expr, Indexed, IndexedBase, KroneckerDelta, Mul, Symbol

from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import factored
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, tensor
from derive.algebra.normal import normalise
from derive.algebra.present import presentable
from derive.forward_map import Layer, LayerError
from derive.properties.reading import real_inputs
from derive.remedies import mean_over_units
from derive.update import deriver as deriver_of

INPUTS = ("gaussian", "relu", "covariance")
_MOST_ENTRIES = {"gaussian": 8, "covariance": 8, "relu": 4}
Block = tuple[Indexed, ...]
Cumulant = Callable[[Block], Expr | None]
"""The contribution of one block of entries: a cumulant with deltas, None if blocks of that kind contribute nothing."""


@dataclass(frozen=True)
class Spread:
    """Mean, variance and coefficient of variation of a self factor; ``says`` states the assumptions on the inputs."""

    inputs: str
    factor: Expr
    mean: Expr
    variance: Expr
    variation: Expr
    says: str


def expected_spread(layer: Layer, inputs: str) -> Spread:
    """Return the spread of a layer's self factor over samples whose inputs have the named statistics.

    Raises LayerError for unknown statistics, or a self factor that is no polynomial in the inputs of low degree.
    """
    if inputs not in INPUTS:
        raise LayerError(f"unknown input statistics {inputs!r}; known: {', '.join(INPUTS)}")
    deriver = deriver_of(layer)
    found = deriver.classify()
    factor = found.expression if found.shape != "full" else mean_over_units(deriver)
    bases = {t.base for t in real_inputs(layer)}
    varying = {base: d for base, d in layer.scope.items() if _reaches(d.expression, layer, bases)}
    polynomial = normalise(expand_definitions(factor, varying))
    rule = _rule(layer, inputs)
    mean = _expectation(polynomial, bases, rule, _MOST_ENTRIES[inputs])
    square = normalise(polynomial**2)
    variance = normalise(_expectation(square, bases, rule, _MOST_ENTRIES[inputs]) - mean**2)
    shown = [presentable(e, {}) for e in (mean, variance)]
    variation = sympy.sqrt(factored(variance)) / shown[0]
    return Spread(inputs, factor, shown[0], shown[1], variation, _says(inputs))


def _says(inputs: str) -> str:
    return {
        "gaussian": "entries of the inputs independent and normal, of mean 0 and variance v",
        "relu": "entries of the inputs independent, the positive part of normal numbers of mean 0, of second moment v",
        "covariance": "inputs normal, of mean 0 and covariance C between the entries of a sample",
    }[inputs]


def _reaches(expression: Expr, layer: Layer, bases: set[IndexedBase]) -> bool:
    """Return whether an expression depends on an input, also through intermediates."""
    return bool(expand_definitions(expression, layer.scope).atoms(IndexedBase) & bases)


def _rule(layer: Layer, inputs: str) -> Cumulant:
    """Return the cumulants of the inputs' entries; entries of different inputs are independent."""
    names = [t.name for t in real_inputs(layer)]
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in layer.definitions}
    used |= {str(s) for s in (*layer.sizes, *layer.scalars)}

    def named(stem: str, name: str) -> str:
        """Return a name for a statistic of one input that nothing in the layer has."""
        wanted = (stem, f"{stem}_{name}") if len(names) == 1 else (f"{stem}_{name}",)
        return next(n for n in (*wanted, f"{stem}_{name}_0") if n not in used)

    if inputs == "covariance":
        covariances = {name: tensor(named("C", name)) for name in names}
        return lambda block: _covariance(block, covariances)
    cumulants = {name: _CUMULANTS[inputs](Symbol(named("v", name), positive=True)) for name in names}
    return lambda block: _independent(block, cumulants)


def _normal(v: Expr) -> Mapping[int, Expr]:
    return {2: v}


def _rectified(v: Expr) -> Mapping[int, Expr]:
    """Return the cumulants of the positive part of a normal number, from its moments in terms of the second."""
    m1, m2, m3, m4 = sympy.sqrt(v / sympy.pi), v, 4 * v * sympy.sqrt(v / sympy.pi), 6 * v**2
    third = m3 - 3 * m2 * m1 + 2 * m1**3
    fourth = m4 - 4 * m3 * m1 - 3 * m2**2 + 12 * m2 * m1**2 - 6 * m1**4
    return {1: m1, 2: m2 - m1**2, 3: third, 4: fourth}


_CUMULANTS: Mapping[str, Callable[[Expr], Mapping[int, Expr]]] = {"gaussian": _normal, "relu": _rectified}


def _independent(block: Block, cumulants: Mapping[str, Mapping[int, Expr]]) -> Expr | None:
    """Return the cumulant of a block of independent entries, with deltas that make them one entry."""
    first, *others = block
    known = cumulants[str(first.base.label)]
    if len(block) not in known or any(e.base != first.base for e in others):
        return None
    same = (KroneckerDelta(a, b) for e in others for a, b in zip(first.indices, e.indices, strict=True))
    return known[len(block)] * Mul(*same)


def _covariance(block: Block, covariances: Mapping[str, IndexedBase]) -> Expr | None:
    """Return the covariance of two entries of one sample; there is none between samples."""
    if len(block) != 2 or block[0].base != block[1].base:
        return None
    one, other = (e.indices for e in block)
    return covariances[str(block[0].base.label)][(*one[1:], *other[1:])] * KroneckerDelta(one[0], other[0])


def _expectation(expression: Expr, bases: set[IndexedBase], rule: Cumulant, most: int) -> Expr:
    """Return the mean of a polynomial in entries of the inputs, in normal form."""
    return normalise(Add(*(_of_term(term, bases, rule, most) for term in Add.make_args(expression))))


def _of_term(term: Expr, bases: set[IndexedBase], rule: Cumulant, most: int) -> Expr:
    factors, bound = _opened(term, bases)
    entries = [f for f in factors if isinstance(f, Indexed) and f.base in bases]
    rest = Mul(*(f for f in factors if not (isinstance(f, Indexed) and f.base in bases)))
    if rest.atoms(IndexedBase) & bases:
        raise LayerError("the self factor is no polynomial in the inputs: its spread is not known in closed form")
    if len(entries) > most:
        raise LayerError(f"the square of the self factor has products of {len(entries)} entries, more than {most}")
    total = sympy.S.Zero
    for blocks in _partitions(entries):
        parts = [rule(block) for block in blocks]
        if all(part is not None for part in parts):
            total += normalise(IndexedSum(rest * Mul(*parts), *bound))
    return total


def _opened(expression: Expr, bases: set[IndexedBase]) -> tuple[list[Expr], list[Index]]:
    """Return the factors of a monomial with every sum over inputs opened, and the indices that the sums bind."""
    factors: list[Expr] = []
    bound: list[Index] = []
    for factor in Mul.make_args(expression):
        base, exponent = factor.as_base_exp()
        if not (factor.atoms(IndexedBase) & bases and exponent.is_Integer and exponent > 0):
            factors.append(factor)
            continue
        for _ in range(int(exponent)):
            if not isinstance(base, IndexedSum):
                factors.append(base)
                continue
            body, own = base.renamed()
            inner, deeper = _opened(body, bases)
            factors += inner
            bound += [*own, *deeper]
    return factors, bound


def _partitions(entries: Sequence[Indexed]) -> Iterator[list[Block]]:
    """Yield every way to put entries into blocks, without regard to the order of blocks."""
    if not entries:
        yield []
        return
    first, *others = entries
    for mask in range(2 ** len(others)):
        together = [e for k, e in enumerate(others) if mask >> k & 1]
        left = [e for k, e in enumerate(others) if not mask >> k & 1]
        for rest in _partitions(left):
            yield [(first, *together), *rest]
