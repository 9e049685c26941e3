"""The properties of a cancelling map, each with how it was established.

    derived              it follows from the map's expression, for the reason given
    counterexample       evaluation found an input for which it fails
    no counterexample    evaluation found none; the value is open
    undecided            neither; the reason says why
    not applicable       the property is about real inputs, and there are none

All of them are computed from the corrected output z~ as a function of all real inputs together: its leading powers
along rays (``growth``), the features that its weights read (``reading``), its scalars f(E), h(E) (``ray``) and its
values (``probe``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import sympy
from sympy import Add, Expr, IndexedBase, KroneckerDelta, Mul, S, Symbol

from derive.algebra.differentiate import expand_definitions
from derive.algebra.eliminate import is_guard
from derive.algebra.equality import factored
from derive.algebra.index import Index
from derive.algebra.nodes import IndexedSum, rename
from derive.algebra.normal import normalise
from derive.forward_map import Layer
from derive.properties.growth import Growth, Undecided, growth
from derive.properties.limits import Limits
from derive.properties.probe import Collision, collision, jump, stretched
from derive.properties.ray import Ray, along_a_ray, angle_of, decomposition, weight_scale
from derive.properties.reading import Cover, covered, features, real_inputs, unread, zeros
from derive.record import Limit, Property

if TYPE_CHECKING:
    from derive.family import Family

DERIVED, COUNTEREXAMPLE, NO_COUNTEREXAMPLE = "derived", "counterexample", "no counterexample"
UNDECIDED, NOT_APPLICABLE = "undecided", "not applicable"


@dataclass(frozen=True)
class Profile:
    """The computed properties of a map; ``singular`` holds expressions that all vanish where the map is singular."""

    normalising: bool
    properties: tuple[Property, ...]
    limit_zero: Limit
    limit_infinity: Limit
    singular: tuple[Expr, ...]
    weight_scale: Expr
    angle: Expr
    decomposition: tuple[tuple[str, Expr], ...]


def profile(family: Family, mapped: Layer, scales: tuple[Expr, Expr], kappa: Symbol, angle: Expr | None) -> Profile:
    """Compute the properties of ``mapped``, the layer of a family with the scales f and h, functions of E.

    ``angle`` is t(r) if the map was requested by its angle; otherwise it is computed.
    """
    f, h = scales
    ray = along_a_ray(f, h if family.offsets else S.Zero, angle)
    decide = _Decisions(family, mapped, ray)
    return Profile(
        normalising=ray.normalising,
        properties=(decide.scale_invariant, decide.injective, decide.singular_at_zero, decide.bounded),
        limit_zero=decide.limits.zero(),
        limit_infinity=decide.limits.infinity(),
        singular=decide.singular,
        weight_scale=weight_scale(ray.far[0], kappa),
        angle=angle_of(ray, family.constant if family.offsets else S.Zero) if angle is None else angle,
        decomposition=decomposition(ray, kappa),
    )


@dataclass(frozen=True)
class _Decisions:
    """The decisions on one map, each made once."""

    family: Family
    mapped: Layer
    ray: Ray

    @cached_property
    def inputs(self) -> frozenset[IndexedBase]:
        """The real inputs, which are scaled together."""
        return frozenset(t.base for t in real_inputs(self.mapped))

    @cached_property
    def whole(self) -> Expr:
        """The corrected output in terms of inputs and parameters alone."""
        return expand_definitions(self.mapped.output.expression, self.mapped.scope)

    @cached_property
    def energy(self) -> Expr:
        """E in terms of inputs alone."""
        return expand_definitions(self.family.energy, self.family.layer.scope)

    @cached_property
    def rest(self) -> Expr:
        """The part of the output that depends on no parameter."""
        return expand_definitions(self.family.rest, self.family.layer.scope)

    @cached_property
    def features(self) -> tuple[Expr, ...]:
        """The features: the factors of the weights' entries in the output."""
        layer = self.family.layer
        parts = {name: normalise(expand_definitions(p, layer.scope)) for name, p in self.family.parts.items()}
        return features(layer, parts, self.family.weights)

    @cached_property
    def limits(self) -> Limits:
        """The limits of the map along rays."""
        return Limits(
            self.inputs, self.energy, self.features, self.rest, self.ray, self.family.weights, self.family.offsets
        )

    def grown(self, far: bool) -> Growth | str:
        """Return the growth of the corrected output, or why it is unknown."""
        try:
            return growth(self.whole, self.inputs, far=far)
        except Undecided as problem:
            return str(problem)

    @cached_property
    def scale_invariant(self) -> Property:
        """Whether multiplying all real inputs by one positive number leaves the output as it is."""
        name = "scale_invariant"
        if not self.inputs:
            return Property(name, None, NOT_APPLICABLE, "there is no real input to be scaled")
        found = self.grown(far=True)
        if isinstance(found, Growth) and found.exact:
            reason = f"the output is homogeneous of degree {found.degree} in the real inputs"
            return Property(name, bool(found.degree == 0), DERIVED, reason)
        same = stretched(self.mapped)
        if same is False:
            return Property(name, False, COUNTEREXAMPLE, "an input and seven times that input give different outputs")
        if same:
            return Property(name, None, NO_COUNTEREXAMPLE, "the inputs tried and seven times these gave one output")
        return Property(name, None, UNDECIDED, "the map could be evaluated nowhere")

    @cached_property
    def injective(self) -> Property:
        """Whether the outputs determine the inputs for all values of the parameters."""
        name, layer = "injective", self.family.layer
        if self.scale_invariant.value and self.scale_invariant.basis == DERIVED:
            return Property(name, False, DERIVED, "an input and every positive multiple of it give one output")
        if unread(layer, self.whole):
            return Property(name, False, DERIVED, "no output depends on some entries of the input")
        known = (*(self.features if self.ray.faithful else ()), *self._plain_rest())
        cover = Cover.NONE if any(t.values is not None for t in layer.inputs) else covered(layer, known)
        if cover is not Cover.NONE:
            entries = "every entry of the input" if cover is Cover.EVERY else "every entry that a window reads"
            return Property(name, True, DERIVED, f"{entries} follows from the coefficients of the parameters")
        if self._meets():
            reason = "inputs whose features are multiples of each other give one output"
            return Property(name, False, DERIVED, reason)
        found: Collision = collision(self.mapped)
        if found.words:
            return Property(name, False, COUNTEREXAMPLE, f"{found.words} give one output")
        if found.tried:
            return Property(name, None, NO_COUNTEREXAMPLE, f"no two inputs with one output among {found.tried} kinds")
        return Property(name, None, UNDECIDED, "the map could be evaluated nowhere")

    def _plain_rest(self) -> tuple[Expr, ...]:
        """Return the skip connection if it is a single term: at zero parameters it is the output."""
        return () if self.rest == 0 or self.rest.is_Add else (self.rest,)

    def _meets(self) -> bool:
        """Return whether features that are multiples of each other, or opposite, occur and give one output."""
        if self.ray.faithful is not False or len(self.features) != 1 or self.rest != 0:
            return False
        linear = self.features[0].is_Indexed or self.features[0].as_independent(sympy.Indexed)[1].is_Indexed
        return covered(self.family.layer, self.features) is not Cover.NONE and (self.ray.normalising or linear)

    @cached_property
    def singular(self) -> tuple[Expr, ...]:
        """The expressions that all vanish where the map is singular; none for a map that is singular nowhere."""
        if not self.ray.singular or _positive(self.energy):
            return ()
        return zeros(self.family.layer, self.features)

    @cached_property
    def singular_at_zero(self) -> Property:
        """Whether the output has no limit as all real inputs tend to zero."""
        name = "singular_at_zero"
        if not self.inputs:
            value = False if not self.singular else None
            return Property(name, value, DERIVED if value is False else NOT_APPLICABLE, "the inputs are integers")
        found = self.grown(far=False)
        if isinstance(found, Growth):
            return self._at_zero(found)
        seen = jump(self.mapped)
        if seen:
            return Property(name, True, COUNTEREXAMPLE, "two inputs close to zero give outputs that are far apart")
        return Property(name, None, NO_COUNTEREXAMPLE if seen is False else UNDECIDED, found)

    def _at_zero(self, found: Growth) -> Property:
        name = "singular_at_zero"
        if found.degree < 0:
            return Property(name, True, DERIVED, "the output grows without bound towards zero")
        if found.degree > 0:
            return Property(name, False, DERIVED, "the output tends to zero")
        if factored(normalise(found.coefficient)).atoms(IndexedBase) & self.inputs:
            return Property(name, True, DERIVED, "the limit at zero depends on the direction of the input")
        return Property(name, False, DERIVED, "the output has one limit at zero, from every direction")

    @cached_property
    def bounded(self) -> Property:
        """Whether a bound that depends only on the parameters holds for each output, whatever the input."""
        name = "bounded"
        reason = "the output is at most `sqrt(kappa)`, the length of its gradient, times the length of the parameters"
        if self.rest == 0:
            return Property(name, True, DERIVED, reason)
        if not self.rest.atoms(IndexedBase) & self.inputs or _bounded(self.rest, self.inputs):
            return Property(name, True, DERIVED, f"{reason}, plus the bounded part without parameters")
        try:
            found = growth(self.rest, self.inputs, far=True)
        except Undecided as problem:
            return Property(name, None, UNDECIDED, str(problem))
        if found.degree > 0:
            return Property(name, False, DERIVED, "the part without parameters grows without bound")
        return Property(name, None, UNDECIDED, "the part without parameters is not known to be bounded")


def _bounded(expression: Expr, inputs: frozenset[IndexedBase]) -> bool:
    """Return whether an expression is a bounded function of the inputs, by its outermost operation."""
    if not expression.atoms(IndexedBase) & inputs:
        return True
    if isinstance(expression, Add | Mul | IndexedSum):
        parts = expression.args[:1] if isinstance(expression, IndexedSum) else expression.args
        return all(_bounded(a, inputs) for a in parts)
    if expression.is_Pow and expression.exp.is_positive:
        return _bounded(expression.base, inputs)
    return isinstance(expression, sympy.tanh | sympy.sin | sympy.cos | sympy.atan | sympy.sign | sympy.Heaviside)


def _positive(energy: Expr) -> bool:
    """Return whether an energy is known to be positive at every input."""
    return bool(energy.is_positive) or any(bool(low.is_positive) for low in _below(energy))


def _below(energy: Expr) -> Iterator[Expr]:
    """Yield lower bounds of a sum of nonnegative terms: its terms where two summed indices are equal."""
    for total in [energy] if isinstance(energy, IndexedSum) else []:
        if not all(is_guard(f) or f.is_nonnegative for f in Mul.make_args(total.body)):
            continue
        for delta in total.body.atoms(KroneckerDelta):
            same = _mirrored(delta, total.bound)
            if same is not None:
                kept, dropped = same
                bound = tuple(i for i in total.bound if i != dropped)
                yield IndexedSum(rename(total.body, {dropped: kept}), *bound)


def _mirrored(delta: KroneckerDelta, bound: tuple[Index, ...]) -> tuple[Index, Index] | None:
    """Return two summed indices of one range that turn one side of a delta into the other."""
    left, right = delta.args
    for kept in bound:
        for dropped in bound:
            if (
                kept != dropped
                and kept.size == dropped.size
                and rename(right, {dropped: kept}) == rename(left, {dropped: kept})
            ):
                return kept, dropped
    return None
