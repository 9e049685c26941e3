"""The limit of a cancelling map along a ray, near zero and far away, in terms of the layer's own parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy
from sympy import Expr, IndexedBase, S

from derive.properties.growth import Growth, Undecided, growth
from derive.properties.ray import Ray
from derive.record import Limit


@dataclass(frozen=True)
class Limits:
    """The limits of ``f(E) (weight part) + h(E) (offsets) + rest`` as all real inputs are scaled together."""

    inputs: frozenset[IndexedBase]
    energy: Expr
    features: tuple[Expr, ...]
    rest: Expr
    ray: Ray
    weights: tuple[str, ...]
    offsets: tuple[str, ...]

    def zero(self) -> Limit:
        """Return the limit as the inputs tend to zero."""
        return self._towards(far=False)

    def infinity(self) -> Limit:
        """Return the limit as the inputs grow."""
        return self._towards(far=True)

    def _towards(self, far: bool) -> Limit:
        if not self.inputs:
            return self._limit("not applicable", reason="the inputs are integers")
        try:
            found = self._energy_growth(far)
            beside = growth(self.rest, self.inputs, far=far).degree if self.rest != 0 else S.Zero
        except Undecided as problem:
            return self._limit("unknown", reason=str(problem))
        if self.rest != 0 and (beside > 0 if far else beside < 0):
            return self._limit("unbounded", reason="the part without parameters grows without bound")
        if found.degree == 0:
            return self._constant_energy(found.coefficient, found.exact)
        limit = self._far() if (found.degree > 0) == far else self._near()
        # The leading coefficient, and E with it, may vanish in some directions.
        partial = found.partial or found.coefficient.has(sympy.Max, sympy.Min, sympy.Heaviside)
        return replace(limit, where=found.coefficient) if partial and limit.kind == "length" else limit

    def _energy_growth(self, far: bool) -> Growth:
        """Return the growth of E; if its terms cancel, its degree is twice that of the weights' features."""
        try:
            return growth(self.energy, self.inputs, far=far)
        except Undecided:
            degrees = [growth(feature, self.inputs, far=far).degree for feature in self.features]
            degree = max(degrees) if far else min(degrees)
            if degree == 0:
                raise
            return Growth(2 * degree, S.One, False)

    def _constant_energy(self, energy: Expr, exact: bool) -> Limit:
        """Return the limit where E tends to a positive number, which may depend on the direction of the input."""
        if exact and energy.atoms(IndexedBase) & self.inputs:
            return self._limit("constant", reason="the scale is the same along every ray")
        limit = self._limit("value", *self.ray.at(energy))
        partial = self.ray.singular and energy.has(sympy.Max, sympy.Min, sympy.Heaviside)
        return replace(limit, where=energy) if partial else limit

    def _near(self) -> Limit:
        """Return the limit where E tends to zero."""
        f, h = self.ray.zero
        if self.ray.singular:
            return self._limit("direction", self.ray.zero_pull, h)
        return self._limit("value", f if f.is_finite else S.Zero, h)

    def _far(self) -> Limit:
        """Return the limit where E grows without bound."""
        pull, h = self.ray.far
        if any(part.has(sympy.AccumBounds) for part in self.ray.far):
            return self._limit("turning", reason="the angle keeps turning")
        if not pull.is_finite:
            return self._limit("unbounded", reason="the length of the weight part grows without bound")
        return self._limit("length", pull, h)

    def _limit(self, kind: str, f: Expr = S.Zero, h: Expr = S.Zero, reason: str = "") -> Limit:
        offsets = self.offsets if h != 0 else ()
        return Limit(kind, self.weights, offsets, f, h, self.rest, S.One, reason)
