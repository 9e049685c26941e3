"""The reference of layers from files (the formula by einsum and gathers) against each layer written in PyTorch."""

import pytest
import torch

from derive.spec import loads_spec
from tests.codegen.layer_files import FILES, toml
from verify.checks.cases import Draw
from verify.checks.evaluate import Point, evaluate
from verify.checks.layer_files.formula import Formula
from verify.checks.layer_files.sizes import draw_sizes
from verify.checks.layer_files.subjects import draw_inputs, shape


def drawing(seed, least=2, largest=5):
    return Draw(torch.Generator().manual_seed(seed), "cpu", least, largest)


def tensors(layer, sizes, random):
    parameters = {p.name: random.normal(*shape(p.axes, sizes)) for p in layer.parameters}
    return {**draw_inputs(layer, random, sizes), **parameters}


@pytest.mark.parametrize("name", FILES)
def test_a_formula_is_its_twin(name):
    file, layer, random = FILES[name], loads_spec(FILES[name].text), drawing(3)
    sizes = {"B": 3, **file.sizes}
    given = tensors(layer, sizes, random)
    torch.testing.assert_close(Formula(layer, given, {}, sizes).output(), file.twin(*given.values(), sizes=sizes))


ODD = toml(
    "odd",
    "n m",
    "x: n",
    "W: m n",
    "z: m",
    "u[j] = max(abs(x[j]), x[n - 1 - j])*cos(x[j]) + log(1 + exp(x[j]))",
    "z[i] = sum[j](W[i, j]*u[j])/n + sum[j, k:n](W[i, j]) + x[i + 1]",
)


def test_a_formula_is_what_arrays_say():
    """Functions, reversed positions, entries outside their tensor, and indices that a summand does not contain."""
    layer, random = loads_spec(ODD), drawing(1)
    sizes = {"B": 2, "n": 3, "m": 4}
    given = tensors(layer, sizes, random)
    arrays = {name: t.numpy() for name, t in given.items()}
    point = Point(arrays, {}, {d.name: d for d in layer.definitions}, sizes)
    expected = evaluate(layer.output.expression, layer.output.indices, point)
    torch.testing.assert_close(Formula(layer, given, {}, sizes).output(), torch.from_numpy(expected))


@pytest.mark.parametrize("name", ["strided", "padded"])
def test_sizes_let_every_window_see_something(name):
    layer = loads_spec(FILES[name].text)
    partly = 0
    for seed in range(6):
        sizes = draw_sizes(layer, drawing(seed))
        ones = {
            t.name: torch.ones(shape(t.axes, sizes), dtype=torch.float64) for t in (*layer.inputs, *layer.parameters)
        }
        z = Formula(layer, ones, {}, sizes).output()
        assert (z > 1).any(), sizes
        partly += len(z.unique()) > 1
    assert partly >= 2, "no draw has a window that lies partly outside"
