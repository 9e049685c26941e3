"""The proofs of a claim: equations by id, what they state, and whether that is proved.

No statement is typed by hand: each property is read off a derivation that is computed and checked on request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import derive
from derive.check import check_step
from derive.record import CancellingMap, Derivation, Status, Step
from derive.spec import loads_spec
from verify.derived import derived

_RESIDUAL = """
name = "residual"
sizes = ["n"]
[input]
x = ["n"]
[parameters]
W = ["n", "n"]
b = ["n"]
[output]
z = ["n"]
formula = "z[i] = x[i] + sum[j](W[i, j] * x[j]) + b[i]"
"""


@dataclass(frozen=True)
class Proof:
    """An equation's id, what it states, and whether that is proved and agrees with the claim."""

    equation: str
    says: str
    holds: bool


def unequal(derivation: Derivation) -> Proof:
    """Return the proof that a layer's self factor differs between samples, and to which order it is exact."""
    text = derivation.to_json()["self_factor"]["text"]
    step = derivation.step("self-factor")
    order = "exact at every rate" if derivation.exact_in_eta else "to first order in the rate"
    says = f"the self factor is `{text}`: not the same for every sample; {order}"
    return Proof(step.id, says, _proved(derivation.steps) and "[s," in text)


def equal(derivation: Derivation) -> Proof:
    """Return the proof that a layer's self factor is the same for every sample."""
    text = derivation.to_json()["self_factor"]["text"]
    step = derivation.step("self-factor")
    says = f"{derivation.layer.name} has the self factor `{text}`: the same for every sample"
    return Proof(step.id, says, _proved(derivation.steps) and "[" not in text)


def cancels(found: CancellingMap, kind: str) -> Proof:
    """Return the proof that a map cancels the divergence exactly and is of the given kind."""
    step = _ending(found.steps, "self-factor")
    says = (
        f"the {found.name} map has the self factor `{found.self_factor}`, residual {found.residual}; it is {found.kind}"
    )
    return Proof(step.id, says, found.residual == 0 and found.kind == kind and _proved(found.steps))


def properties(found: CancellingMap, invariant: bool, injective: bool, singular: bool) -> Proof:
    """Return the proof of a map's scale invariance, injectivity and behaviour at zero, compared with the claim."""
    is_ = (found.scale_invariant, found.injective, found.singular_at_zero)
    words = ("scale invariant", "injective", "singular at zero")
    says = ", ".join(f"{'' if value else 'not '}{word}" for word, value in zip(words, is_, strict=True))
    step = _ending(found.steps, "solution")
    return Proof(step.id, f"the {found.name} map is {says}", is_ == (invariant, injective, singular))


def inseparable(found: CancellingMap) -> Proof:
    """Return the proof that no map before a convolution replaces a map inside it."""
    steps = [step for step in found.steps if "/inseparable-" in step.id]
    says = "no map of the image before an ordinary convolution gives this: two patches need two scales of one pixel"
    return Proof(steps[-1].id, says, _proved(steps))


def splits(found: CancellingMap) -> Proof:
    """Return the proof that a map splits into an activation-like map of the length, an offset, and a scale."""
    parts = "; ".join(f"{name} `{expression}`" for name, expression in found.decomposition)
    step = _ending(found.steps, "forward")
    return Proof(step.id, f"the {found.name} map splits: {parts}", bool(found.decomposition) and _proved([step]))


def mitigated(derivation: Derivation) -> Proof:
    """Return the proof that with a learned scale the self factor depends on parameters, so that no map cancels it."""
    text = derivation.to_json()["self_factor"]["text"]
    step = derivation.step("self-factor")
    left = not derivation.self_factor.parameter_free and not derivation.solutions
    says = f"with a learned scale the self factor is `{text}`: it depends on parameters, and no map cancels it"
    return Proof(step.id, says, left and _proved(derivation.steps))


@cache
def proofs() -> dict[str, tuple[Proof, ...]]:
    """Return the proofs of each claim that a derivation decides, wholly or in part."""
    return {claim: tuple(proof() for proof in makers) for claim, makers in _MAKERS.items()}


def _map(layer: str, name: str) -> CancellingMap:
    found: CancellingMap = next(m for m in derived(layer).solutions if m.name == name)
    return found


@cache
def _checked(layer: str) -> Derivation:
    return derive.effective_update(derive.layer(layer)).check()


def _residual() -> Derivation:
    return derive.effective_update(loads_spec(_RESIDUAL)).check()


def _proved(steps: Iterable[Step]) -> bool:
    return all(
        (step.verdict if step.verdict.status is not Status.UNVERIFIED else check_step(step)).status is Status.PROVED
        for step in steps
    )


def _ending(steps: Iterable[Step], name: str) -> Step:
    return next(step for step in steps if step.id.endswith(f"/{name}"))


_MAKERS: dict[str, tuple[Callable[[], Proof], ...]] = {
    "C1": (lambda: unequal(_checked("affine")),),
    "C2": tuple(
        (lambda layer=layer: unequal(_checked(layer)))  # type: ignore[misc]
        for layer in ("convolution", "attention-projection", "attention")
    ),
    "C3": (
        lambda: cancels(_map("affine", "norm-like"), "normalising"),
        lambda: equal(_checked("rms-norm>affine")),
        lambda: properties(_map("affine", "norm-like"), invariant=True, injective=False, singular=True),
    ),
    "C4": (
        lambda: cancels(_map("affine", "affine-like"), "non-normalising"),
        lambda: properties(_map("affine", "affine-like"), invariant=False, injective=True, singular=False),
    ),
    "C8": (
        lambda: cancels(_map("convolution", "affine-like"), "non-normalising"),
        lambda: inseparable(_map("convolution", "affine-like")),
    ),
    "C9": (
        lambda: splits(_map("affine", "norm-like")),
        lambda: splits(_map("affine", "affine-like")),
        lambda: mitigated(derived("affine>gain").check()),
    ),
    "C10": (lambda: unequal(_checked("attention")), lambda: unequal(_residual())),
}
