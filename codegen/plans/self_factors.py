"""The self factors of ordinary layers for code: an expression of the input, or the general law.

The general law says that the self factor is the forward map of the squared input with every weight 1 and no bias, plus
a constant, so that the layer's own operator can compute it. It is checked here against the forward map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from sympy import Expr, Indexed, S

from codegen.ir.program import ProgramError
from codegen.plans.digest import digest
from derive.algebra.nodes import map_entries
from derive.algebra.normal import normalise
from derive.forward_map import Layer
from derive.layers import layer
from derive.layers.convolution import convolution, transposed_convolution
from derive.layers.embedding import weighted_embedding_bag
from derive.record import Derivation
from derive.update import effective_update


@dataclass(frozen=True)
class Written:
    """A self factor as an expression of the layer's inputs."""

    name: str
    expression: Expr
    digest: str


@dataclass(frozen=True)
class Law:
    """The constants that the general law adds to the operator on squares, with and without a bias."""

    name: str
    with_bias: Expr
    without_bias: Expr


@dataclass(frozen=True)
class SelfFactors:
    """The self factors of the ordinary layers."""

    affine: Written
    linear: Written
    embedding: Written
    embedding_bag: Written
    convolution: Law
    transposed_convolution: Law


@cache
def self_factors() -> SelfFactors:
    """Derive and return the self factors; raise ``ProgramError`` if one has not the form that its template assumes."""
    return SelfFactors(
        affine=_written(layer("affine")),
        linear=_written(layer("linear")),
        embedding=_written(layer("embedding")),
        embedding_bag=_written(weighted_embedding_bag()),
        convolution=_law("convolution", lambda axes, bias: convolution(axes, grouped=True, bias=bias)),
        transposed_convolution=_law(
            "transposed-convolution", lambda axes, bias: transposed_convolution(axes, grouped=True, bias=bias)
        ),
    )


def _written(known: Layer) -> Written:
    factor = effective_update(known).self_factor
    if not (factor.isotropic and factor.parameter_free):
        raise ProgramError(
            f"the self factor of {known.name!r} is not one number per sample computed from its input alone"
        )
    return Written(known.name, factor.expression, digest(known))


def _law(name: str, make: Callable[[int, bool], Layer]) -> Law:
    """Return the constants for a kind of convolution, which must be equal over 1, 2 and 3 axes."""
    found = {bias: {constant(effective_update(make(axes, bias))) for axes in (1, 2, 3)} for bias in (True, False)}
    if any(len(values) != 1 for values in found.values()):
        raise ProgramError(f"{name}: the general law adds different constants over 1, 2 and 3 axes")
    return Law(name, *(found[bias].pop() for bias in (True, False)))


def constant(derivation: Derivation) -> Expr:
    """Return the self factor minus the forward map of the squared input with every weight 1 and every offset 0.

    Raises ``ProgramError`` unless the derivation states the general law and the difference is a number.
    """
    known = derivation.layer
    weight = max(known.parameters, key=lambda p: len(p.axes))
    inputs = {t.base for t in known.inputs}

    def on_squares(entry: Indexed) -> Expr:
        """Return the square for an entry of the input, 1 for a weight, 0 for an offset."""
        if entry.base in inputs:
            return entry**2
        return S.One if entry.base == weight.base else S.Zero

    rest = normalise(derivation.self_factor.expression - map_entries(known.output.expression, on_squares))
    stated = any(step.id.endswith("/general-law") for step in derivation.steps)
    if not (stated and rest.is_number):
        raise ProgramError(f"the general law does not give the self factor of {known.name!r}")
    return rest
