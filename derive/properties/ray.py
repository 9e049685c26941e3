"""The two scalars of a map as functions of r, the length of its weights' features: ``E = r^2``.

A map with scalars f(E) before the weight part and h(E) before the offsets sends a length r to the pair (r f, h).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy
from sympy import Expr, Symbol

r = Symbol("r", positive=True)
energy_symbol = Symbol("E", positive=True)


@dataclass(frozen=True)
class Ray:
    """The scalars along a ray: ``pull`` is r f, ``offset`` is h.

    ``zero`` are the limits of (f, h) as r -> 0, ``zero_pull`` that of r f; ``far`` are those of (r f, h) as r -> oo.
    ``faithful`` tells whether the pair determines r (None: not decided).
    """

    factor: Expr
    pull: Expr
    offset: Expr
    zero: tuple[Expr, Expr]
    zero_pull: Expr
    far: tuple[Expr, Expr]
    faithful: bool | None

    @property
    def normalising(self) -> bool:
        """Whether the length is lost: neither part depends on it."""
        return not self.pull.has(r) and not self.offset.has(r)

    @property
    def singular(self) -> bool:
        """Whether the weight part keeps a direction, but no length, where the weights' features vanish."""
        return bool(self.zero_pull != 0)

    def at(self, energy: Expr) -> tuple[Expr, Expr]:
        """Return f and h at a given positive value of E."""
        length = sympy.sqrt(energy)
        return self.factor.xreplace({r: length}), self.offset.xreplace({r: length})


@lru_cache(maxsize=64)
def along_a_ray(f: Expr, h: Expr, angle: Expr | None) -> Ray:
    """Take limits and derivatives of the scalars, functions of ``energy_symbol``; cached, since layers share them.

    ``angle`` is t(r) if the map was requested by its angle.
    """
    along = {energy_symbol: r**2}
    f, h = sympy.simplify(f.xreplace(along)), sympy.simplify(h.xreplace(along))
    pull = sympy.simplify(r * f)
    return Ray(
        factor=f,
        pull=pull,
        offset=h,
        zero=(sympy.limit(f, r, 0, "+"), sympy.limit(h, r, 0, "+")),
        zero_pull=sympy.limit(pull, r, 0, "+"),
        far=(_far(pull, angle), _far(h, angle)),
        faithful=_faithful([pull, h]) if angle is None else _faithful_angle(angle),
    )


def _far(part: Expr, angle: Expr | None) -> Expr:
    """Return the limit at large r; sine and cosine of the angle are taken at the angle's own limit."""
    if angle is not None:
        end = sympy.limit(angle, r, sympy.oo)
        waves = {wave(angle): wave(end) for wave in (sympy.sin, sympy.cos) if isinstance(wave(angle), wave)}
        part = part.xreplace(waves)
    return sympy.limit(part, r, sympy.oo)


def _faithful(parts: list[Expr]) -> bool | None:
    """Return whether one of the parts is strictly monotone in r; None when no sign can be decided."""
    answers: list[bool | None] = []
    for part in parts:
        slope = sympy.factor(sympy.simplify(sympy.diff(part, r)))
        if slope.is_positive or slope.is_negative:
            return True
        answers.append(False if slope == 0 else None)
    return None if None in answers else False


def _faithful_angle(angle: Expr) -> bool | None:
    """Return whether the angle distinguishes inputs: strictly monotone and within one half turn.

    Beyond a half turn the sine changes sign: an input then has the output of an opposite input of another length.
    """
    monotone = _faithful([angle])
    if not monotone:
        return monotone
    ends = sympy.limit(angle, r, 0, "+"), sympy.limit(angle, r, sympy.oo)
    if not all(end.is_finite for end in ends):
        return False
    half_turns = sympy.floor(sympy.Min(*ends) / sympy.pi) + 1
    within: bool | None = (half_turns * sympy.pi - sympy.Max(*ends)).is_nonnegative
    return within


def weight_scale(far: Expr, kappa: Symbol) -> Expr:
    """Return the standard deviation of the weights that keeps the variance of a long input with unit entries.

    The weight part of the output has variance ``(sigma r f)^2``. If r f tends to zero or has no limit, no such scale
    exists, and the bound ``1/sqrt(kappa)`` of the whole family is returned.
    """
    settled = far != 0 and far.is_finite and not far.has(sympy.AccumBounds)
    return sympy.simplify(1 / far) if settled else 1 / sympy.sqrt(kappa)


def decomposition(ray: Ray, kappa: Symbol) -> tuple[tuple[str, Expr], ...]:
    """Split the map into its effect on the length r of the input, a linear map, and a parameterised scale.

    The activation-like map sends an input of length r to one of length ``activation`` in the same direction, next to a
    constant entry ``offset``; an ordinary affine map follows; ``scale`` depends only on kappa.
    """
    scale, activation = ray.pull.as_independent(r)
    if not activation.has(r):
        scale, activation = ray.pull, sympy.S.One
    return (("activation", activation), ("offset", sympy.simplify(ray.offset / scale)), ("scale", scale))


def angle_of(ray: Ray, constant: Expr) -> Expr:
    """Return t with tan t = r f / (h sqrt(c)); pi/2 without an offset."""
    if constant == 0:
        return sympy.pi / 2
    return sympy.atan(sympy.simplify(ray.pull / (ray.offset * sympy.sqrt(constant))))
