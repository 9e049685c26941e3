"""Rows of unit length as programs: QK-norm is proved to be this map, and the backward pass is the derived one."""

from dataclasses import replace

import numpy
import pytest

import derive
from codegen.ir.interpret import interpret
from codegen.ir.program import ProgramError
from codegen.plans import unit_rows as home
from codegen.plans.unit_rows import unit_rows
from derive.layers import layer


@pytest.fixture
def anew():
    """Clear the caches before and after the test."""
    unit_rows.cache_clear()
    yield
    unit_rows.cache_clear()


@pytest.mark.parametrize("other", ["rms-norm", "layer-norm"])
def test_another_normaliser_is_not_qk_norm(other, anew, monkeypatch):
    monkeypatch.setattr(home, "layer", lambda name: layer(other if name == "l2-norm" else name))
    with pytest.raises(ProgramError, match="is not the product of rows"):
        unit_rows()


def test_scores_of_another_form_are_refused(anew, monkeypatch):
    monkeypatch.setattr(home, "layer", lambda name: layer("attention" if name.startswith("qk") else name))
    with pytest.raises(ProgramError, match="is not the product of rows"):
        unit_rows()


def run(program, **inputs):
    return interpret(program, inputs, {}, {"B": 4, "n": 3})


def test_the_programs_are_the_formula_and_its_derivatives():
    """Rows of any length, one of them zero; tangents and gradients from the Jacobian of x/|x| and of 1/|x|."""
    unit, rng = unit_rows(), numpy.random.default_rng(0)
    x, g, x_t, h = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=4)
    found = run(unit.whole, x=x)
    u, f = found["u"], found["f"]
    length = numpy.sqrt((x**2).sum(1))
    numpy.testing.assert_allclose(u, x / length[:, None], rtol=1e-14)
    numpy.testing.assert_allclose(f, 1 / length, rtol=1e-14)
    jacobian = (numpy.eye(3) - x[:, :, None] * x[:, None] / length[:, None, None] ** 2) / length[:, None, None]
    slope = -x / length[:, None] ** 3
    numpy.testing.assert_allclose(run(unit.backward, g=g, u=u, f=f)["dx"], (jacobian @ g[..., None])[..., 0])
    numpy.testing.assert_allclose(run(unit.scale_backward, h=h, u=u, f=f)["dx_by_f"], h[:, None] * slope)
    numpy.testing.assert_allclose(run(unit.tangent, x_t=x_t, u=u, f=f)["u_t"], (jacobian @ x_t[..., None])[..., 0])
    numpy.testing.assert_allclose(run(unit.scale_tangent, x_t=x_t, u=u, f=f)["f_t"], (slope * x_t).sum(1))
    assert not run(unit.whole, x=0 * x)["u"].any()


def test_equations_are_those_of_the_layer_and_the_input_is_not_read():
    unit = unit_rows()
    (step,) = derive.backward(unit.layer)
    assert unit.backward.instructions[-1].equation == step.id == "l2-norm/backward-dx"
    assert {v.name for v in unit.backward.inputs} == {"g", "u", "f"}
    assert [i.equation for i in unit.whole.instructions if i.equation] == ["l2-norm/define-q", "l2-norm/forward"]


def test_a_backward_pass_that_needs_the_input_is_refused(anew, monkeypatch):
    """A map whose row is not a multiple of the input: the input does not follow from the kept values."""
    made = replace(layer("l2-norm"), output=replace(layer("l2-norm").output, expression=shifted(layer("l2-norm"))))
    monkeypatch.setattr(home, "layer", lambda name: made if name == "l2-norm" else layer(name))
    monkeypatch.setattr(home, "equal", lambda *_: True)
    with pytest.raises(ProgramError, match="needs more than the output"):
        unit_rows()


def shifted(unit):
    return unit.output.expression + unit.definitions[0].entry
