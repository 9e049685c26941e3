"""Compositions with functions as links and with residuals: their kernels, whole and part by part."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F

from derive.algebra.equality import equal
from derive.algebra.nodes import rename
from derive.compose import only
from derive.evaluation.evaluate import evaluate
from derive.evaluation.fields import REAL
from derive.export.json_schema import derivation_to_json
from derive.export.terminal import derivation_lines
from derive.export.text import text
from derive.forward_map import Layer, LayerError
from derive.layers import layer
from derive.record import Status
from derive.update import effective_update
from tests.derive.references import Trial
from tests.derive.test_zoo import Given, point


def _mlp(v, activation):
    return F.linear(activation(F.linear(v["x"], v["W"], v["b"])), v["W_2"], v["b_2"])


def _convolved(v, sizes):
    z = F.conv1d(v["x"], v["W"], v["b"], sizes["stride"], sizes["padding"], sizes["dilation"])
    return F.linear(F.relu(z).flatten(1), v["W_2"], v["b_2"])


NETWORKS = {  # each with its map in torch, and the sizes
    "affine>relu>affine": (lambda v, s: _mlp(v, F.relu), {"n": 2, "m": 3, "m_2": 2}),
    "affine>gelu>affine": (lambda v, s: _mlp(v, F.gelu), {"n": 2, "m": 3, "m_2": 2}),
    "x + (affine>silu>affine)": (lambda v, s: v["x"] + _mlp(v, F.silu), {"n": 3, "m": 2}),
    "silu>affine": (lambda v, s: F.linear(F.silu(v["x"]), v["W"], v["b"]), {"n": 3, "m": 2}),
    "affine>x + (linear)": (
        lambda v, s: F.linear(v["x"], v["W"], v["b"]) + F.linear(F.linear(v["x"], v["W"], v["b"]), v["W_2"]),
        {"n": 3, "m": 2},
    ),
    "convolution-1d>relu>affine": (
        _convolved,
        {"C": 2, "L": 4, "O": 2, "K": 2, "P": 3, "m": 2, "stride": 1, "padding": 0, "dilation": 1},
    ),
}


def trial(name):
    reference, sizes = NETWORKS[name]
    return Trial(layer(name), reference, {**sizes, "B": 2})


@pytest.mark.parametrize("name", NETWORKS)
def test_the_kernel_is_that_of_automatic_differentiation(name, monkeypatch):
    made = trial(name)
    monkeypatch.setattr(Given, "tensors", made.tensors, raising=False)
    kernel, derivation = made.kernel(), effective_update(made.layer)
    indices = made.layer.output.indices
    places = list(itertools.product(*(range(n) for n in made.output().shape)))
    with REAL.context():
        for here, there in random.Random(1).sample(list(itertools.product(places, places)), 10):
            at = dict(zip((*indices, *(i.primed() for i in indices)), here + there, strict=True))
            expected = pytest.approx(float(kernel[here + there]), rel=1e-9)
            assert float(evaluate(derivation.kernel, at, point(made, derivation.layer))) == expected


@pytest.mark.parametrize("name", ["affine>relu>affine", "x + (affine>gelu>affine)", "affine>x + (linear)"])
def test_a_kernel_is_split_into_parts_own_and_upstream(name):
    derivation = effective_update(layer(name)).check()
    assert {s.id: s.verdict for s in derivation.steps if s.verdict.status is not Status.PROVED} == {}
    parts = [derivation.step(f"part-{k}").after for k in (1, 2)]
    assert equal(sum(parts), derivation.kernel)
    for number, part in enumerate(parts, 1):
        assert equal(effective_update(only(layer(name), number)).kernel, part)


def test_upstream_is_the_kernel_below_between_two_slopes():
    derivation = effective_update(layer("affine>relu>affine"))
    assert text(derivation.step("upstream").after) == "sum[j,k](Theta[s,k,s',j]*W_2[i,k]*W_2[i',j])"
    # a skip around the last part's input: this form does not exist, and none is claimed
    skipping = effective_update(layer("affine>x + (affine>relu>affine)"))
    assert "upstream" not in [s.id.split("/")[-1] for s in skipping.steps]


def test_a_corrupted_part_is_caught(monkeypatch):
    monkeypatch.setattr("derive.parts.differentiate", lambda e, v, s: 2 * _true(e, v, s))
    again: Layer = layer("affine>sin>affine")
    refuted = [s.id for s in effective_update(again).check().steps if s.verdict.status is Status.REFUTED]
    assert refuted == ["affine>sin>affine/upstream"]


def _true(expression, variable, scope):
    from derive.algebra.differentiate import differentiate

    return differentiate(expression, variable, scope)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("affine>(relu", "do not match"),
        ("affine>swish", "functions as links"),
        ("affine)>(affine", "do not match"),
        ("x + (embedding)", "cannot be added"),
        ("affine>", "unknown layer ''"),
    ],
)
def test_what_is_no_composition_is_refused(name, says):
    with pytest.raises(LayerError, match=says.replace("(", r"\(")):
        layer(name)
    with pytest.raises(LayerError, match="has no part 3 with parameters"):
        only(layer("affine>relu>affine"), 3)


def test_flattening_lays_the_last_axis_out_fastest():
    made = trial("convolution-1d>relu>affine")
    flat = next(d for d in made.layer.definitions if d.name == "flat")
    assert text(flat.expression) == "a[s,f // P,f % P]"
    assert rename(flat.expression, {}) is flat.expression and torch.is_tensor(made.output())


def test_the_parts_are_named_with_what_they_learn():
    data = derivation_to_json(effective_update(layer("affine>relu>affine")))
    assert data["parts"] == [
        {"name": "affine", "parameters": ["W", "b"]},
        {"name": "affine", "parameters": ["W_2", "b_2"]},
    ]
    assert any("parts, for --of N: 1 affine (W, b)" in line for line in derivation_lines(data))
    assert "parts" not in derivation_to_json(effective_update(layer("affine")))
