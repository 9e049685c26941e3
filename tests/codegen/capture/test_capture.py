"""Capture of modules from papers and libraries: sizes, names, and the proof, which must catch a wrong layer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

import codegen
from codegen.capture import capture, captured
from codegen.capture.driver import layer_name
from codegen.capture.errors import CaptureError
from codegen.capture.fitting import Fitter, number
from codegen.capture.operators import RULES
from codegen.capture.proof import compare
from derive.algebra.index import size_symbol
from tests.codegen.capture import modules
from tests.marks import one_in

n, m, B = map(size_symbol, ("n", "m", "B"))


def test_a_linear_layer_is_read_with_the_modules_own_names() -> None:
    layer = codegen.capture(modules.linear)
    assert layer == capture(modules.linear)
    assert [t.name for t in layer.parameters] == ["weight", "bias"]
    assert layer.parameters[0].axes == (m, n) and layer.inputs[0].axes == (B, n)
    assert set(layer.sizes) == {B, n, m} and not layer.definitions
    assert any("return F.linear" in note for note in layer.notes)


QUICK = [f for f in modules.QUICK if f is not modules.linear]


@pytest.mark.parametrize("factory", one_in(2, QUICK), ids=lambda f: f.__name__)
def test_a_module_is_captured_and_proven(factory: Any) -> None:
    assert capture(factory).parameters


def test_a_layer_that_differs_from_its_module_is_refused() -> None:
    found = captured(modules.rms_norm)
    layer = found.layer
    wrong = replace(
        found, layer=layer.with_output(layer.output.expression + layer.parameters[0].base[layer.output.indices[1]])
    )
    sample = found.samples[-1]
    sizes = {size_symbol(name): value for name, value in sample.sizes.items()}
    compare(found, sample, sizes)
    with pytest.raises(CaptureError, match="differs from the module: value at"):
        compare(wrong, sample, sizes)


def test_distances_are_captured() -> None:
    assert capture(modules.radial_basis).parameters


def test_a_rule_that_gives_another_shape_than_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "aten.cdist", lambda form, x1, x2, p, compute_mode: x1)
    with pytest.raises(CaptureError, match=r"aten\.cdist returns the shape"):
        capture(modules.radial_basis)
    monkeypatch.setitem(RULES, "aten.cdist", lambda form, x1, x2, p, compute_mode: x1.shape[9])
    with pytest.raises(
        CaptureError, match=r"aten\.cdist is called with arguments that its rule does not support .IndexError"
    ):
        capture(modules.radial_basis)


def test_numbers_are_fitted_by_the_simplest_formula() -> None:
    fitter = Fitter([{n: 3, m: 4}, {n: 5, m: 2}, {n: 2, m: 7}, {n: 6, m: 5}, {n: 4, m: 9}])
    assert fitter.integer([7, 7, 9, 11, 13]) == n + m
    assert fitter.integer([25, 21, 29, 61, 73]) == 2 * n * m + 1
    assert fitter.integer([1, 2, 4, 8, 17]) is None
    assert fitter.real([k**-0.5 for k in (3, 5, 2, 6, 4)]) == n ** (-number(0.5))
    assert fitter.real([16 / k for k in (4, 2, 7, 5, 9)]) == 16 / m
    assert fitter.real([0.1, 0.2, 0.4, 0.9, 0.3]) is None


def test_names_of_layers_come_from_the_factory() -> None:
    assert layer_name("pack.mod:my_thing") == "my_thing"
    assert layer_name("f.<locals>.sum") == "sum_layer"


def test_importing_codegen_loads_no_torch() -> None:
    code = "import sys, codegen; codegen.capture; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
