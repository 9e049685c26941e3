"""From an update kernel to the maps that cancel the divergence.

    split the output by parameter            z = sum over parameters of part_W
    put an unknown scalar before each part   z~ = sum f_W part_W, f_W a function of the sample only
    derive the self factor of the ansatz     sum f_W^2 k_W             (by the engine, not by assumption)
    require a constant self factor           f^2 E + h^2 c = kappa     (E varies over samples, c does not)
    add one condition, solve for the scalar  f = h: affine-like;  h = 1: norm-like
    derive the corrected layer anew          residual = its self factor - kappa

Where no map exists, the solver returns a refusal with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import sympy
from sympy import Add, Expr, KroneckerDelta, Mul, Symbol

from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal, factored
from derive.algebra.index import Index
from derive.algebra.normal import normalise
from derive.backward_pass import backward
from derive.export.text import text
from derive.family import Family, energy_symbol, isotropic_family
from derive.forward_map import Definition, Layer
from derive.inseparable import inseparability, overlapping
from derive.kernel_forms import strip_unit_deltas
from derive.properties import profile
from derive.properties import r as radius
from derive.record import CancellingMap, Derivation, Step
from derive.update import effective_update

kappa = Symbol("kappa", positive=True)


@dataclass(frozen=True)
class Refusal:
    """A kind of map that does not exist for a layer, and why."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Solutions:
    """The cancelling maps of a layer, in order, and the kinds that do not exist with their reasons."""

    layer: Layer
    maps: tuple[CancellingMap, ...]
    refusals: tuple[Refusal, ...] = ()

    def __iter__(self) -> Iterator[CancellingMap]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, key: int | str) -> CancellingMap:
        """Return a map by position or by name; an unknown name raises KeyError with the known ones."""
        if isinstance(key, int):
            return self.maps[key]
        for found in self.maps:
            if found.name == key:
                return found
        raise KeyError(f"no map {key!r} for {self.layer.name}; maps: {', '.join(m.name for m in self.maps) or 'none'}")


def solve(layer: Layer, angle: Expr | None = None) -> Solutions:
    """Return the cancelling maps of a layer: normalising and non-normalising, with computed properties.

    ``angle`` is a function t(r) of the positive symbol ``r``: the member of the isotropic family with ``f =
    sqrt(kappa) sin(t)/r`` and ``h = sqrt(kappa) cos(t)`` then comes last, under the name ``angle``. A layer made of
    parts (attention) has the maps of its parts.
    """
    if layer.parts:
        return _solve_parts(layer)
    derivation = effective_update(layer)
    refusal = _refuse(derivation)
    if refusal:
        return Solutions(layer, (), (refusal,))
    value = factored(normalise(expand_definitions(derivation.self_factor.expression, layer.scope)))
    if not value.atoms(Index):
        reason = (
            f"the self factor is the constant `{text(value)}`: every sample already moves alike, nothing to correct"
        )
        return Solutions(layer, (), (Refusal("any", reason),))
    if kappa in layer.scalars:
        reason = "the layer has a scalar called `kappa`, the name of a map's constant self factor: rename the scalar"
        return Solutions(layer, (), (Refusal("any", reason),))
    family = isotropic_family(layer, derivation)
    if family.constant == 0:
        found = _corrected(family, "norm-like", _equal_scales(family), sympy.S.One)
        f, E = _unused(layer, "f"), _unused(layer, "E")
        reason = (
            f"no parameter adds a constant to the self factor (no bias), so `{f}**2*{E} = kappa` leaves "
            f"`{f} = sqrt(kappa/{E})` alone, which loses the length `sqrt({E})`: the non-normalising map needs the bias"
        )
        return Solutions(layer, (found,), (Refusal("non-normalising", reason),))
    maps = [
        _corrected(family, "norm-like", _offsets_kept(family), family.constant + 1),
        _corrected(family, "affine-like", _equal_scales(family), sympy.S.One),
    ]
    if angle is not None:
        maps.append(_corrected(family, "angle", _by_angle(family, angle), sympy.S.One, angle))
    return Solutions(layer, tuple(maps))


def _solve_parts(layer: Layer) -> Solutions:
    """Solve a layer part by part; its own refusal, if any, is kept."""
    solved = [solve(part) for part in layer.parts]
    own = _refuse(effective_update(layer))
    refusals = tuple(dict.fromkeys((*([own] if own else []), *(r for s in solved for r in s.refusals))))
    return Solutions(layer, tuple(m for s in solved for m in s), refusals)


def _refuse(derivation: Derivation) -> Refusal | None:
    """Return why no scalar per sample can cancel the divergence, or None."""
    factor = derivation.self_factor
    if factor.shape == "full":
        return Refusal(
            "any", "the self factor is a full matrix over units: no scalar per sample makes it a multiple of I"
        )
    if not factor.parameter_free:
        return Refusal(
            "any",
            "the self factor depends on the parameters: dividing by it would change their gradients, so it is a "
            "residual to report, not a factor to cancel",
        )
    if not derivation.exact_in_eta:
        return Refusal("any", "the output is not linear in the parameters, so no per-sample scale is exact")
    return None


def _equal_scales(family: Family) -> tuple[Expr, Expr]:
    """Solve ``f^2 (E + c) = kappa`` for one scalar of the whole pre-activation."""
    root = _positive_root(energy_symbol + family.constant, kappa)
    return root, root


def _offsets_kept(family: Family) -> tuple[Expr, Expr]:
    """Solve ``f^2 E + c = kappa``: the offset stays as it is, the scale of the weight part makes up the difference."""
    excess = Symbol("excess", positive=True)
    root = _positive_root(energy_symbol, excess)
    return root.xreplace({excess: kappa - family.constant}), sympy.S.One


@lru_cache(maxsize=64)
def _positive_root(factor: Expr, value: Expr) -> Expr:
    """Solve ``f^2 factor = value`` for the positive f."""
    f = Symbol("f", positive=True)
    (root,) = sympy.solve(f**2 * factor - value, f)
    return root


def _by_angle(family: Family, angle: Expr) -> tuple[Expr, Expr]:
    """Return the member of the family at the angle t(r), r the square root of the energy."""
    t = angle.xreplace({radius: sympy.sqrt(energy_symbol)})
    f = sympy.sqrt(kappa) * sympy.sin(t) / sympy.sqrt(energy_symbol)
    return f, sympy.sqrt(kappa / family.constant) * sympy.cos(t)


def _corrected(
    family: Family, name: str, scales: tuple[Expr, Expr], default: Expr, angle: Expr | None = None
) -> CancellingMap:
    """Build the corrected layer, derive it anew, and compute the map's properties."""
    f, h = scales
    mapped = _mapped_layer(family, name, f, h)
    derived = effective_update(mapped)
    entry = expand_definitions(derived.self_factor.expression, mapped.scope)
    residual = sympy.S.Zero if equal(entry, kappa) else factored(normalise(entry - kappa))
    shape = profile(family, mapped, (f, h), kappa, angle)
    return CancellingMap(
        name=name,
        kind="normalising" if shape.normalising else "non-normalising",
        layer=family.layer,
        mapped=mapped,
        scales=tuple((p, _scale_of(family, p, f, h)) for p in (*family.weights, *family.offsets)),
        kappa=kappa,
        kappa_default=default,
        self_factor=kappa if residual == 0 else entry,
        residual=residual,
        kappa_above=family.constant if h == 1 else sympy.S.Zero,
        properties=shape.properties,
        zero=shape.limit_zero,
        infinity=shape.limit_infinity,
        singular=shape.singular,
        weight_scale=shape.weight_scale,
        angle=shape.angle,
        decomposition=shape.decomposition,
        steps=_steps(family, mapped, derived, f, h),
    )


def _scale_of(family: Family, parameter: str, f: Expr, h: Expr) -> Expr:
    return f if parameter in family.weights else h


def _unused(layer: Layer, wanted: str) -> str:
    """Return a name for a new intermediate that no tensor of the layer has."""
    used = {t.name for t in (*layer.inputs, *layer.parameters)} | {d.name for d in (*layer.definitions, layer.output)}
    used |= {str(s) for s in layer.sizes}
    return next(n for n in (wanted, *(f"{wanted}_{k}" for k in range(1, 99))) if n not in used)


def _mapped_layer(family: Family, name: str, f: Expr, h: Expr) -> Layer:
    """Return the corrected forward map: energy and scales as intermediates, then the scaled parts."""
    layer, over = family.layer, family.over
    energy = Definition(_unused(layer, "E"), over, family.energy)
    at = {energy_symbol: energy.entry}
    scale = Definition(_unused(layer, "f"), over, f.xreplace(at))
    definitions = [*layer.definitions, energy, scale]
    if f == h:
        # No update moves a skip connection: it stays outside the scale, as in every member of the family.
        carried = layer.output.expression if family.rest == 0 else Add(*family.parts.values())
        output = scale.entry * carried + family.rest
    else:
        offset = h.xreplace(at)
        if offset.free_symbols & set(over):
            definitions.append(Definition(_unused(layer, "h"), over, offset))
            offset = definitions[-1].entry
        scaled = ((scale.entry if p in family.weights else offset) * part for p, part in family.parts.items())
        output = Add(*scaled, family.rest)
    scalars = tuple(sorted(set(layer.scalars) | {kappa}, key=str))
    mapped_name = map_id(layer, name)
    return replace(
        layer.with_output(output), name=mapped_name, title=name, definitions=tuple(definitions), scalars=scalars
    )


def map_id(layer: Layer, name: str) -> str:
    """Return the equation-id prefix of a map; maps of the affine layer have no layer prefix."""
    return name if layer.name == "affine" else f"{layer.name}/{name}"


def _steps(family: Family, mapped: Layer, derived: Derivation, f: Expr, h: Expr) -> tuple[Step, ...]:
    """Return the steps of a map: condition, solution, corrected forward map, its self factor, its backward pass."""
    names = {d.expression: d.entry for d in mapped.definitions}
    at = {energy_symbol: names[family.energy]}
    scale, offset = f.xreplace(at), h.xreplace(at)
    condition = names[scale] ** 2 * names[family.energy] + names.get(offset, offset) ** 2 * family.constant
    solution = Step(
        f"{mapped.name}/solution",
        "set the self factor to `kappa` and solve for the scalar",
        kappa,
        condition,
        kappa,
        mapped.definitions,
    )
    kernel = [s for s in derived.steps if not s.id.endswith(("cross-terms", "self-factor"))]
    entry = derived.step("self-factor")
    deltas = Mul(*(KroneckerDelta(i, i.primed()) for i in derived.units))
    value = strip_unit_deltas(normalise(entry.after), [(i, i.primed()) for i in derived.units])
    constant = value is not None and equal(expand_definitions(value, mapped.scope), kappa)
    self_factor = replace(entry, after=kappa * deltas) if constant else entry
    inseparable = inseparability(family.layer) if f == h and overlapping(family.layer) else ()
    return (family.step, solution, *kernel, self_factor, derived.step("cross-terms"), *backward(mapped), *inseparable)
