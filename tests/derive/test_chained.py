"""Derivations through named slopes have the same kernels, units and orders as those that write every path out."""

from __future__ import annotations

from dataclasses import replace

import pytest

import derive
from derive.chained import ChainedDeriver, is_long
from derive.deriver import Deriver
from derive.evaluation.agreement import FEW, Sides, agreement
from derive.forward_map import Layer
from derive.layers import layer_names
from derive.record import Status
from derive.spec import loads_spec
from tests.derive.zoo import ZOO
from tests.derive.zoo_networks import NETWORKS

LAYERS = {**ZOO, **NETWORKS}
SHORT = ("swiglu", "two_layers", "softmax_attention", "weight_norm", "layer_norm", "recurrent", "norm_after")


def made(name: str) -> Layer:
    return loads_spec(LAYERS[name].text(f"{name}_x"))


@pytest.mark.parametrize("name", SHORT)
def test_named_slopes_change_nothing(name: str) -> None:
    layer = made(name)
    plain, chained = Deriver(layer), ChainedDeriver.of(layer)
    assert chained.units == plain.units and chained.order_in_eta == plain.order_in_eta
    scope = chained.layer.definitions
    assert agreement(Sides(name, plain.kernel, chained.kernel, scope), 0, FEW).agreed
    assert chained.classify().shape == plain.classify().shape


def test_a_wrong_slope_is_caught() -> None:
    derivation = ChainedDeriver.of(made("softmax_attention")).derivation()
    kernel = derivation.step("update-kernel")
    slope = next(d for d in kernel.scope if d.name.startswith("J_"))
    wrong = tuple(replace(d, expression=2 * d.expression) if d is slope else d for d in kernel.scope)
    checked = replace(derivation, steps=(replace(kernel, scope=wrong), kernel)).check()
    found = [step.verdict.status for step in checked.steps]
    assert found[0] is Status.REFUTED and found[1] is not Status.REFUTED


def test_built_in_layers_are_short_enough_to_be_written_out() -> None:
    assert not any(is_long(derive.layer(name)) for name in layer_names())
