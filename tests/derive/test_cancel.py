"""Cancelling maps cancel, by the engine and by automatic differentiation of the same maps written in PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy
import torch
from sympy import Expr, Symbol, atan, exp, pi, sqrt

import derive
from derive.algebra.differentiate import expand_definitions
from derive.algebra.equality import equal
from derive.backward_pass import backward
from derive.cancel import Solutions
from derive.check import checked_map
from derive.declare import forward
from derive.forward_map import Layer
from derive.properties import r
from derive.record import CancellingMap
from tests.derive.algebra.brute import value
from tests.derive.references import CLOSE, Named, Reference, Sizes, Trial
from tests.derive.test_layers import TRIALS, gradients_agree

kappa, E = Symbol("kappa", positive=True), Symbol("E", positive=True)

CANCELLED = [
    "linear",
    "affine",
    "row, sparse",
    "image, sparse",
    "volume",
    "depthwise",
    "row back",
    "projection",
    "value path",
    "output projection",
    "gain",
    "embedding-bag",
]
WITHOUT_BIAS = ("linear", "embedding-bag")


def energy(made: Trial, v: Named) -> torch.Tensor:
    """The weights' contribution to the self factor, by the law of squares or by its own rule, without the engine."""
    if made.layer.name == "attention-value":
        mixed = (v["E"] / v["E"].sum(-1, keepdim=True)) @ v["y"][:, None]
        return (mixed**2).sum(-1, keepdim=True)
    if made.layer.name == "embedding-bag":
        counts = torch.nn.functional.one_hot(v["t"], made.sizes["V"]).sum(1)
        return (counts**2).sum(-1, keepdim=True).double()
    blank = {p.name: torch.ones_like(v[p.name]) for p in made.layer.parameters}
    blank |= {name: torch.zeros_like(v[name]) for name in ("b", "beta") if name in blank}
    return made.reference({**v, **{t.name: v[t.name] ** 2 for t in made.layer.inputs}, **blank}, made.sizes)


def corrected(made: Trial, name: str, kappa: float) -> Reference:
    """The map in PyTorch: affine-like scales the whole output, norm-like only the weight part."""

    def reference(v: Named, sizes: Sizes) -> torch.Tensor:
        E, bias = energy(made, v), made.layer.name not in WITHOUT_BIAS
        if name == "affine-like":
            return math.sqrt(kappa) * made.reference(v, sizes) / torch.sqrt(E + 1)
        none = {n: torch.zeros_like(v[n]) for n in ("b", "beta") if n in v}
        weights = made.reference({**v, **none}, sizes)
        offset = made.reference(v, sizes) - weights
        return math.sqrt(kappa - bias) * weights / torch.sqrt(E) + offset

    return reference


def maps() -> list[tuple[str, str]]:
    names = {name: ["norm-like"] if name in WITHOUT_BIAS else ["norm-like", "affine-like"] for name in CANCELLED}
    return [(name, found) for name in CANCELLED for found in names[name]]


def at_kappa(name: str, map_name: str, kappa: float) -> tuple[CancellingMap, Trial]:
    made = TRIALS[name]
    found = derive.solve(made.layer)[map_name]
    reference = corrected(made, map_name, kappa)
    tensors = dict(made.tensors)
    return found, replace(made, layer=found.mapped, reference=reference, tensors=tensors, scalars={"kappa": kappa})


mapped = pytest.mark.parametrize(("name", "map_name"), maps())


@mapped
def test_the_map_is_the_one_written_in_pytorch(name: str, map_name: str) -> None:
    found, made = at_kappa(name, map_name, 2.5)
    output, world = made.output(), made.world()
    for place, _ in made.places(most=24):
        at = dict(zip(found.mapped.output.indices, place, strict=True))
        assert value(found.map, at, world) == pytest.approx(float(output[place]), rel=CLOSE, abs=CLOSE)


@mapped
def test_the_map_cancels_by_automatic_differentiation(name: str, map_name: str) -> None:
    """The block of the kernel at one sample is kappa times the identity."""
    found, made = at_kappa(name, map_name, 2.5)
    kernel, units = made.kernel(), derive.effective_update(found.mapped).units
    varies = [position for position, index in enumerate(found.mapped.output.indices) if index in units]
    for here, other in made.places():
        there = tuple(other[p] if p in varies else here[p] for p in range(len(here)))
        assert float(kernel[here + there]) == pytest.approx(2.5 * (here == there), rel=CLOSE, abs=CLOSE)


@mapped
def test_the_map_cancels_by_the_engine(name: str, map_name: str) -> None:
    found = derive.solve(TRIALS[name].layer)[map_name]
    assert (found.residual, found.self_factor) == (0, kappa)
    derived = derive.effective_update(found.mapped)
    assert derived.exact_in_eta
    assert equal(expand_definitions(derived.self_factor.expression, found.mapped.scope), kappa)


@mapped
def test_the_backward_pass_of_the_map(name: str, map_name: str) -> None:
    found, made = at_kappa(name, map_name, 1.75)
    steps = backward(found.mapped)
    assert [s.id for s in steps] == [s.id for s in found.steps if "/backward-" in s.id]
    gradients_agree(made, steps)


@pytest.mark.parametrize("name", CANCELLED)
def test_these_are_the_maps(name: str) -> None:
    assert [found.name for found in derive.solve(TRIALS[name].layer)] == [found for key, found in maps() if key == name]


@pytest.mark.parametrize("name", ["affine", "linear", "row", "gain", "value path", "embedding-bag"])
def test_every_step_of_a_map_is_verified(name: str) -> None:
    for found in derive.solve(TRIALS[name].layer):
        steps = checked_map(found).steps
        assert {s.verdict.status.value for s in steps} <= {"proved", "sampled"}
        assert {s.id.rpartition("/")[2] for s in steps} >= {"family", "solution", "self-factor", "forward"}


NORMALISING = {"kind": "normalising", "injective": False, "singular_at_zero": True}
PROPERTIES = {
    ("affine", "affine-like"): {
        "kind": "non-normalising",
        "scale_invariant": False,
        "injective": True,
        "singular_at_zero": False,
        "weight_scale": 1 / sqrt(kappa),
        "kappa_default": 1,
        "angle": atan(r),
        "scales": (("W", sqrt(kappa) / sqrt(E + 1)), ("b", sqrt(kappa) / sqrt(E + 1))),
        "limit_zero": "z -> sqrt(kappa)*[W] + sqrt(kappa)*[b]",
        "limit_infinity": "z -> sqrt(kappa)*[W]/sqrt(E)",
    },
    ("affine", "norm-like"): {
        **NORMALISING,
        "scale_invariant": True,
        "weight_scale": 1 / sqrt(kappa - 1),
        "kappa_default": 2,
        "angle": atan(sqrt(kappa - 1)),
        "scales": (("W", sqrt(kappa - 1) / sqrt(E)), ("b", 1)),
    },
    ("linear", "norm-like"): {
        **NORMALISING,
        "scale_invariant": True,
        "weight_scale": 1 / sqrt(kappa),
        "kappa_default": 1,
        "angle": pi / 2,
        "scales": (("W", sqrt(kappa) / sqrt(E)),),
    },
}
PROPERTIES |= {
    (name, map_name): {k: v for k, v in PROPERTIES["affine", map_name].items() if k in ("kind", "injective", "angle")}
    for name in ("row", "image", "volume", "groups", "row back", "projection", "output projection")
    for map_name in ("affine-like", "norm-like")
}
# Only the ratios of a mixture's weights matter, before the map and after it.
PROPERTIES["value path", "affine-like"] = {"kind": "non-normalising", "injective": False, "angle": atan(r)}
PROPERTIES["value path", "norm-like"] = PROPERTIES["row", "norm-like"]


@pytest.mark.parametrize("key", PROPERTIES, ids=" ".join)
def test_properties(key: tuple[str, str]) -> None:
    found = derive.solve(TRIALS[key[0]].layer)[key[1]]
    assert {name: getattr(found, name) for name in PROPERTIES[key]} == PROPERTIES[key]


def test_properties_hold_in_numbers() -> None:
    """Scale invariance, the two limits and the singularity of the affine maps, on their PyTorch references."""
    made = TRIALS["affine"]
    outputs = {}
    for map_name, scale in itertools.product(("affine-like", "norm-like"), (1e-7, 1.0, 3.0, 1e7)):
        v = {**made.tensors, "x": made.tensors["x"] * scale}
        outputs[map_name, scale] = corrected(made, map_name, 2.0)(v, made.sizes)
    plain = made.reference({**made.tensors, "x": made.tensors["x"] * 1e-7}, made.sizes)
    direction = made.tensors["x"] / made.tensors["x"].norm(dim=-1, keepdim=True)
    assert torch.allclose(outputs["norm-like", 1.0], outputs["norm-like", 3.0])
    assert torch.allclose(outputs["norm-like", 1.0], outputs["norm-like", 1e-7])
    assert not torch.allclose(outputs["affine-like", 1.0], outputs["affine-like", 3.0], rtol=0.01)
    assert torch.allclose(outputs["affine-like", 1e-7], math.sqrt(2) * plain, atol=1e-10)
    assert torch.allclose(outputs["affine-like", 1e7], math.sqrt(2) * direction @ made.tensors["W"].T, atol=1e-5)


def test_assumptions_are_stated() -> None:
    affine = derive.solve(derive.layer("affine"))
    assert "kappa > 1" in affine["norm-like"].assumptions
    assert "kappa > 0" in affine["affine-like"].assumptions
    assert any("singular" in text for text in affine["norm-like"].assumptions)
    assert not any("singular" in text for text in affine["affine-like"].assumptions)


ANGLES: dict[str, tuple[Expr, bool | None, str]] = {
    "affine-like": (atan(r), True, "non-normalising"),
    "a slower one": (atan(r / 2), True, "non-normalising"),
    "up to the other pole": (2 * atan(r), True, "non-normalising"),
    "past the other pole": (3 * atan(r), False, "non-normalising"),
    "round and round": (r, False, "non-normalising"),
    "a constant": (pi / 3, False, "normalising"),
    "a decay": (pi / 2 * (1 - exp(-r)), True, "non-normalising"),
    "a power": (pi / 2 * r**2 / (1 + r**2), True, "non-normalising"),
}


@pytest.mark.parametrize("row", ANGLES.values(), ids=ANGLES.keys())
def test_every_angle_function_cancels(row: tuple[Expr, bool | None, str]) -> None:
    angle, injective, kind = row
    found = derive.solve(derive.layer("affine"), angle)["angle"]
    assert (found.residual, found.injective, found.kind, found.angle) == (0, injective, kind, angle)
    assert "AccumBounds" not in found.limit_infinity and not found.weight_scale.has(sympy.AccumBounds)
    f, h = dict(found.scales)["W"], dict(found.scales)["b"]
    for radius in (0.3, 1.0, 4.0):
        at = {E: radius**2, kappa: 1.75}
        assert float((f**2 * E + h**2).subs(at)) == pytest.approx(1.75)
        assert float((f * sqrt(E) / sqrt(kappa)).subs(at)) == pytest.approx(math.sin(float(angle.subs(r, radius))))


def test_beyond_a_half_turn_two_inputs_meet() -> None:
    """``injective`` in numbers: at t and 2 pi - t opposite inputs have the same output."""
    found = derive.solve(derive.layer("affine"), 3 * atan(r))["angle"]
    pull = sympy.lambdify(r, (dict(found.scales)["W"] * sqrt(E)).subs({E: r**2, kappa: 1}))
    offset = sympy.lambdify(r, dict(found.scales)["b"].subs({E: r**2, kappa: 1}))
    near, far = math.tan(2.9 / 3), math.tan((2 * math.pi - 2.9) / 3)
    assert pull(near) == pytest.approx(-pull(far)) and offset(near) == pytest.approx(offset(far))


def test_affine_like_is_the_only_member_with_one_scale() -> None:
    by_angle = derive.solve(derive.layer("affine"), atan(r))
    f, h = (scale for _, scale in by_angle["angle"].scales)
    assert equal(f, h) and equal(f, dict(by_angle["affine-like"].scales)["W"])
    scale = Symbol("scale", positive=True)
    (only,) = sympy.solve(scale**2 * E + scale**2 - kappa, scale)
    assert equal(only, f)
    for name, (angle, _, _) in ANGLES.items():
        f, h = (scale for _, scale in derive.solve(derive.layer("affine"), angle)["angle"].scales)
        assert equal(f, h) is (name == "affine-like")


REFUSED = {
    "linear": ("non-normalising", "needs the bias"),
    "embedding-bag": ("non-normalising", "needs the bias"),
    "embedding": ("any", "nothing to correct"),
    "rms-norm>affine": ("any", "nothing to correct"),
    "low-rank": ("any", "full matrix"),
    "affine>rms-norm": ("any", "full matrix"),
    "gated": ("any", "depends on the parameters"),
    "attention": ("any", "depends on the parameters"),
    "qk-norm>attention": ("any", "depends on the parameters"),
    "l2-norm>linear>gain": ("any", "depends on the parameters"),
    "affine>batch-norm": ("any", "depends on the parameters"),
    "affine>affine": ("any", "full matrix"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_map_says_why(name: str) -> None:
    solutions = derive.solve(derive.layer(name))
    kind, reason = REFUSED[name]
    assert any(refusal.kind == kind and reason in refusal.reason for refusal in solutions.refusals)
    found = {m.layer.name for m in solutions}
    assert found == ({name} if kind == "non-normalising" else {p.name for p in derive.layer(name).parts})
    assert "affine-like" not in {m.name for m in solutions if kind == "non-normalising"}


def test_a_scalar_called_kappa_is_not_taken_for_the_one_to_reach() -> None:
    layer = forward(
        "scaled",
        sizes="n m",
        inputs={"x": "n"},
        parameters={"W": "m n"},
        scalars="kappa",
        formulas=["z[i] = kappa*sum[j](W[i, j]*x[j])"],
    )
    solutions = derive.solve(layer)
    assert not solutions.maps and "rename the scalar" in solutions.refusals[0].reason


def test_attention_has_the_maps_of_its_parts() -> None:
    found = [(m.layer.name, m.name) for m in derive.solve(derive.layer("attention"))]
    parts = ("attention-projection", "attention-value", "attention-output")
    assert found == [(part, name) for part in parts for name in ("norm-like", "affine-like")]


def test_a_map_is_found_by_name_or_place() -> None:
    solutions: Solutions = derive.solve(derive.layer("affine"))
    assert solutions[1] is solutions["affine-like"] and len(solutions) == 2
    assert [m.mapped.name for m in solutions] == ["norm-like", "affine-like"]
    assert derive.solve(derive.layer("linear"))[0].mapped.name == "linear/norm-like"
    with pytest.raises(KeyError, match="maps: norm-like, affine-like"):
        solutions["softmax"]


def test_mapping_a_map_again_changes_nothing() -> None:
    """A map that cancels is a layer with a constant self factor: there is nothing left to correct."""
    for found in derive.solve(derive.layer("affine")):
        again = derive.solve(found.mapped)
        assert not again.maps and "nothing to correct" in again.refusals[0].reason


UNLIKE: dict[str, Callable[[Layer], Layer]] = {
    "one": lambda layer: layer.with_output(2 * layer.output.expression),
    "two": lambda layer: layer.with_output(-layer.output.expression / 3),
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE.keys())
def test_a_constant_in_front_is_absorbed(change: Callable[[Layer], Layer]) -> None:
    """``c (W x + b)`` has the same affine-like map up to the sign: the scale absorbs the constant."""
    affine = derive.layer("affine")
    plain, scaled = (derive.solve(layer)["affine-like"] for layer in (affine, change(affine)))
    outputs = [expand_definitions(found.map, found.mapped.scope) for found in (plain, scaled)]
    assert equal(outputs[0], outputs[1]) or equal(outputs[0], -outputs[1])
