"""Layers with ``max``: their kernels against automatic differentiation, every step checked, and every export."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import derive
from derive.declare import forward
from derive.export.json_schema import derivation_from_json
from derive.export.latex import fragment
from derive.export.summary import full_derivation
from derive.forward_map import Layer
from tests.derive.algebra.brute import value
from tests.derive.references import CLOSE, Named, Sizes, Trial

SIZES = {"B": 2, "n": 3, "m": 2, "k": 2}


def layer(formula: str, definitions: tuple[str, ...] = (), **parameters: str) -> Layer:
    return forward(
        "drawn",
        sizes="n m k",
        inputs={"x": "n"},
        parameters=parameters or {"W": "m n", "b": "m"},
        formulas=[*definitions, formula],
    )


def affine(v: Named) -> Tensor:
    return v["x"] @ v["W"].T + v["b"]


def length(v: Named) -> Tensor:
    return v["x"].norm(dim=-1, keepdim=True)


AFFINE = "sum[j](W[i, j]*x[j]) + b[i]"
CASES: dict[str, tuple[Layer, Callable[[Named], Tensor]]] = {
    "relu": (layer(f"z[i] = max({AFFINE}, 0)"), lambda v: torch.relu(affine(v))),
    "leaky": (layer(f"z[i] = max({AFFINE}, ({AFFINE})/8)"), lambda v: torch.nn.functional.leaky_relu(affine(v), 1 / 8)),
    "clipped above and below": (
        layer(f"z[i] = max(-max(-({AFFINE}), -1/2), -1/2)"),
        lambda v: affine(v).clamp(-1 / 2, 1 / 2),
    ),
    "maxout": (
        layer("z[i] = max(" + ", ".join(f"sum[j](W[{c}, i, j]*x[j])" for c in range(3)) + ")", W="3 m n"),
        lambda v: torch.einsum("cij,sj->sci", v["W"], v["x"]).amax(1),
    ),
    "rectified features": (
        layer("z[i] = sum[j](W[i, j]*max(x[j], 0)) + b[i]"),
        lambda v: torch.relu(v["x"]) @ v["W"].T + v["b"],
    ),
    "clipped norm": (
        layer(f"z[i] = ({AFFINE})/max(1, sqrt(sum[j](x[j]**2)))"),
        lambda v: affine(v) / length(v).clamp(1),
    ),
    "two layers": (
        layer("z[l] = sum[i](V[l, i]*h[i])", ("h[i] = max(sum[j](W[i, j]*x[j]), 0)",), W="m n", V="k m"),
        lambda v: torch.relu(v["x"] @ v["W"].T) @ v["V"].T,
    ),
    "residual maximum": (
        layer("z[i] = max(x[i], sum[j](W[i, j]*x[j]))", W="n n"),
        lambda v: torch.maximum(v["x"], v["x"] @ v["W"].T),
    ),
    "positive weights": (layer("z[i] = sum[j](max(W[i, j], 0)*x[j])", W="m n"), lambda v: v["x"] @ v["W"].relu().T),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_that_of_automatic_differentiation(name: str) -> None:
    made_of, reference = CASES[name]

    def named(v: Named, sizes: Sizes) -> Tensor:
        return reference(v)

    kernel = derive.effective_update(made_of).kernel
    primes = {i: i.primed() for i in made_of.output.indices}
    for seed in range(3):
        made = Trial(made_of, named, SIZES, seed)
        expected, world = made.kernel(), made.world()
        for here, there in made.places(most=20):
            at = dict(zip(primes, here, strict=True)) | dict(zip(primes.values(), there, strict=True))
            assert float(value(kernel, at, world)) == pytest.approx(float(expected[here + there]), rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize("name", ["relu", "maxout", "clipped norm", "residual maximum", "rectified features"])
def test_every_step_holds_and_every_export_reads(name: str) -> None:
    derivation = full_derivation(CASES[name][0]).check()
    steps = [*derivation.steps, *(step for found in derivation.solutions for step in found.steps)]
    assert {step.verdict.status.value for step in steps} <= {"proved", "sampled"}
    assert derivation_from_json(derivation.to_json()) == derivation
    assert "Heaviside" not in fragment(derivation) and "theta" not in fragment(derivation)


def test_a_rectified_unit_moves_where_it_is_active() -> None:
    factor = derive.effective_update(CASES["relu"][0]).to_json()["self_factor"]
    assert factor["text"] == "step(sum[j](W[i,j]*x[s,j]) + b[i])*(sum[j](x[s,j]**2) + 1)"
    assert not factor["parameter_free"]
