"""What a cancelling map does, computed from its scalars along a ray: invariance, injectivity, limits, initialisation.

Along the ray ``x -> lambda x`` the energy of the weights is ``E = r^2`` (its degree is measured, not assumed), so a
map with scalars f(E), h(E) sends the radius r to the pair (r f, h). All answers follow from that pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, Symbol

from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.algebra.nodes import map_entries
from derive.algebra.normal import normalise

if TYPE_CHECKING:
    from derive.family import Family

r = Symbol("r", positive=True)
energy_symbol = Symbol("E", positive=True)


@dataclass(frozen=True)
class Profile:
    """The computed properties of a map; ``injective`` is None where the sign of a derivative cannot be decided."""

    normalising: bool
    scale_invariant: bool
    injective: bool | None
    singular_at_zero: bool
    limit_zero: str
    limit_infinity: str
    weight_scale: Expr
    angle: Expr | None
    decomposition: tuple[tuple[str, Expr], ...]


def profile(family: Family, f: Expr, h: Expr, kappa: Symbol, angle: Expr | None = None) -> Profile:
    """Compute the properties of the scalars f and h, given as functions of the energy symbol E.

    ``angle`` is t(r) where the map was asked for by its angle; otherwise it is computed.
    """
    ray = _along_a_ray(f, h if family.offsets else sympy.S.Zero, angle)
    return Profile(
        normalising=not ray.pull.has(r) and not ray.offset.has(r),
        scale_invariant=_scale_invariant(family, ray.pull, ray.offset),
        injective=ray.injective,
        singular_at_zero=not ray.zero[0].is_finite,
        limit_zero=_near_zero(family, ray.zero, ray.pull),
        limit_infinity=_far_away(family, ray.far),
        weight_scale=_weight_scale(ray.far[0], kappa),
        angle=_angle(family, ray.pull, ray.offset) if angle is None else angle,
        decomposition=_decomposition(ray.pull, ray.offset, kappa),
    )


@dataclass(frozen=True)
class _Ray:
    """The scalars along a ray: ``pull`` is r f, ``offset`` is h; ``zero`` are limits of (f, h), ``far`` of (r f, h)."""

    pull: Expr
    offset: Expr
    zero: tuple[Expr, Expr]
    far: tuple[Expr, Expr]
    injective: bool | None


@lru_cache(maxsize=64)
def _along_a_ray(f: Expr, h: Expr, angle: Expr | None) -> _Ray:
    """Take limits and slopes of the scalars; many layers share them."""
    along = {energy_symbol: r**2}
    f, h = sympy.simplify(f.xreplace(along)), sympy.simplify(h.xreplace(along))
    pull = sympy.simplify(r * f)
    return _Ray(
        pull=pull,
        offset=h,
        zero=(sympy.limit(f, r, 0, "+"), sympy.limit(h, r, 0, "+")),
        far=(_far(pull, angle), _far(h, angle)),
        injective=_injective([pull, h]) if angle is None else _injective_angle(angle),
    )


def _far(part: Expr, angle: Expr | None) -> Expr:
    """Return the limit at large r; a wave of the angle is taken at the angle's own limit."""
    if angle is not None:
        end = sympy.limit(angle, r, sympy.oo)
        waves = {wave(angle): wave(end) for wave in (sympy.sin, sympy.cos) if isinstance(wave(angle), wave)}
        part = part.xreplace(waves)
    return sympy.limit(part, r, sympy.oo)


def _weight_scale(far: Expr, kappa: Symbol) -> Expr:
    """Return the standard deviation of the weights that keeps the variance of a long input with unit entries.

    The weight part of the output has variance ``(sigma r f)^2``; where r f tends to zero or to nothing no such scale
    exists, and the bound ``1/sqrt(kappa)`` of the whole family is returned.
    """
    settled = far != 0 and far.is_finite and not far.has(sympy.AccumBounds)
    return sympy.simplify(1 / far) if settled else 1 / sympy.sqrt(kappa)


def degree_of_energy(family: Family) -> Expr | None:
    """Return d where E(lambda x) = lambda^d E(x), or None when the energy is not homogeneous."""
    grow = Symbol("lambda", positive=True)
    bases = {t.base for t in family.layer.inputs if t.values is None}
    energy = expand_definitions(family.energy, family.layer.scope)
    grown = normalise(map_entries(energy, lambda entry: grow * entry if entry.base in bases else entry))
    for d in range(5):
        if equal(grown, grow**d * energy):
            return sympy.Integer(d)
    return None


def _scale_invariant(family: Family, pull: Expr, h: Expr) -> bool:
    """A map is scale invariant when its energy is, or when neither r f nor h changes along a ray."""
    degree = degree_of_energy(family)
    return degree == 0 or (degree == 2 and not pull.has(r) and not h.has(r))


def _injective(parts: list[Expr]) -> bool | None:
    """Along a ray the map is injective when one of its parts is strictly monotone; None when no sign can be decided."""
    answers: list[bool | None] = []
    for part in parts:
        slope = sympy.factor(sympy.simplify(sympy.diff(part, r)))
        if slope.is_positive or slope.is_negative:
            return True
        answers.append(False if slope == 0 else None)
    return None if None in answers else False


def _injective_angle(angle: Expr) -> bool | None:
    """An angle keeps inputs apart when it is strictly monotone and stays within one half turn.

    Beyond it the sine changes sign: an input then meets the opposite one of another length.
    """
    monotone = _injective([angle])
    if not monotone:
        return monotone
    ends = sympy.limit(angle, r, 0, "+"), sympy.limit(angle, r, sympy.oo)
    if not all(end.is_finite for end in ends):
        return False
    half_turns = sympy.floor(sympy.Min(*ends) / sympy.pi) + 1
    within: bool | None = (half_turns * sympy.pi - sympy.Max(*ends)).is_nonnegative
    return within


def _near_zero(family: Family, zero: tuple[Expr, Expr], pull: Expr) -> str:
    if not zero[0].is_finite:
        return f"singular: the weight part keeps the length {sympy.limit(pull, r, 0, '+')} in every direction"
    return _combination(family, zero[0], zero[1], "")


def _far_away(family: Family, far: tuple[Expr, Expr]) -> str:
    if any(part.has(sympy.AccumBounds) for part in far):
        return "no limit: the angle keeps turning"
    if not far[0].is_finite:
        return "unbounded"
    return _combination(family, far[0], far[1], "/sqrt(E)")


def _combination(family: Family, f: Expr, h: Expr, divisor: str) -> str:
    """Write ``f (weight part) + h (offset part)`` in words of the layer's parameters."""
    weights = " + ".join(f"[{name}]" for name in family.weights)
    terms = [_term(f, weights if len(family.weights) == 1 else f"({weights})") + divisor]
    if family.offsets and h != 0:
        offsets = " + ".join(f"[{name}]" for name in family.offsets)
        terms.append(_term(h, offsets))
    return "z -> " + " + ".join(terms)


def _term(factor: Expr, part: str) -> str:
    return part if factor == 1 else f"{factor}*{part}"


def _decomposition(pull: Expr, h: Expr, kappa: Symbol) -> tuple[tuple[str, Expr], ...]:
    """Split the map into what it does to the length r of the input, a linear map, and a parameterised scale.

    The activation-like map sends an input of length r to one of length ``activation`` in the same direction, beside a
    constant entry ``offset``; an ordinary affine map follows; ``scale`` is what depends on kappa alone.
    """
    scale, activation = pull.as_independent(r)
    if not activation.has(r):
        scale, activation = pull, sympy.S.One
    return (("activation", activation), ("offset", sympy.simplify(h / scale)), ("scale", scale))


def _angle(family: Family, pull: Expr, h: Expr) -> Expr | None:
    """Return t with tan t = r f / (h sqrt(c)); pi/2 without an offset."""
    if not family.offsets:
        return sympy.pi / 2
    return sympy.atan(sympy.simplify(pull / (h * sympy.sqrt(family.constant))))
