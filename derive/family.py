"""The isotropic family of a layer: one unknown scalar of the sample before each parameter's part of the output.

    z~ = sum over parameters of f_W part_W      =>      self factor = sum f_W^2 k_W          (derived, not assumed)

Parameters whose k varies over samples are *weights* (k adds up to the energy E), the others *offsets* (c). A member of
the family cancels the divergence exactly when ``f^2 E + h^2 c = kappa``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import sympy
from sympy import Add, Expr, Indexed, IndexedBase

from derive.algebra.differentiate import expand_definitions
from derive.algebra.index import Index
from derive.algebra.normal import normalise
from derive.deriver import Deriver
from derive.forward_map import Layer, Tensor
from derive.properties.ray import energy_symbol as energy_symbol
from derive.record import Derivation, Step


@dataclass(frozen=True)
class Family:
    """The isotropic family of a layer: which parameters carry the varying part, and the condition on the scalars.

    ``energy`` (E) is the contribution of the weights to the self factor of a sample, ``constant`` (c) that of the
    offsets. A scale may depend on the output indices ``over``. The output is the sum of ``parts``, one for each
    parameter, and of ``rest``, which depends on no parameter.
    """

    layer: Layer
    parts: Mapping[str, Expr]
    rest: Expr
    weights: tuple[str, ...]
    offsets: tuple[str, ...]
    energy: Expr
    constant: Expr
    over: tuple[Index, ...]
    step: Step


def split_by_parameter(layer: Layer) -> dict[str, Expr]:
    """Return the part of the output that depends on each parameter; with ``skipped_part`` they add up to the output."""
    return {name: part for name, part in _parts(layer).items() if name}


def skipped_part(layer: Layer) -> Expr:
    """Return the part of the output that depends on no parameter: a skip connection, which no update moves."""
    return _parts(layer).get("", sympy.S.Zero)


def _parts(layer: Layer) -> dict[str, Expr]:
    expanded = normalise(expand_definitions(layer.output.expression, layer.parametric_scope))
    parts: dict[str, list[Expr]] = {p.name: [] for p in layer.parameters} | {"": []}
    for term in Add.make_args(expanded):
        mentioned = term.atoms(IndexedBase)
        parts[next((p.name for p in layer.parameters if p.base in mentioned), "")].append(term)
    return {name: Add(*terms) for name, terms in parts.items() if terms}


def isotropic_family(layer: Layer, derivation: Derivation) -> Family:
    """Derive the self factor of the ansatz with one unknown scalar per parameter, and read off the condition."""
    parts = split_by_parameter(layer)
    over = tuple(
        i
        for i in layer.output.indices
        if i in derivation.samples or i in derivation.self_factor.expression.free_symbols
    )
    unknowns = {name: Tensor(f"f_{name}", tuple(i.size for i in over)) for name in parts}
    output = Add(*(unknowns[name].base[over] * part for name, part in parts.items()))
    ansatz = replace(layer.with_output(output), name=f"{layer.name}/ansatz")
    ansatz = replace(ansatz, inputs=(*layer.inputs, *unknowns.values()))
    deriver = Deriver(ansatz)
    factor = deriver.classify()
    shares = {name: _coefficient(factor.expression, unknowns[name].base[over]) for name in parts}
    weights = tuple(name for name, share in shares.items() if share.atoms(Indexed))
    offsets = tuple(name for name in shares if name not in weights)
    energy = Add(*(shares[name] for name in weights))
    constant = Add(*(shares[name] for name in offsets))
    rule = "one unknown scalar before each parameter"
    step = replace(deriver.self_factor_step(factor), id=f"{layer.name}/family", rule=rule)
    return Family(layer, parts, skipped_part(layer), weights, offsets, energy, constant, over, step)


def _coefficient(expression: Expr, unknown: Expr) -> Expr:
    """Return ``k`` in ``expression = k unknown^2 + (terms without it)``."""
    return sympy.expand(expression, deep=False).coeff(unknown, 2)
