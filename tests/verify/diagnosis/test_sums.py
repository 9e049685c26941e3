"""Sums over many numbers against NumPy's in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from verify.diagnosis.sums import same_bits, squares_of


def of_float64(tensor):
    return float(np.square(tensor.detach().double().numpy()).sum())


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25], ids=["usual", "tiny", "huge"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_of_squares(kind, size):
    generator = torch.Generator().manual_seed(0)
    shapes = {"row": (7,), "matrix": (700, 900), "number": (), "nothing": (0, 3), "columns": (40, 30)}
    held = {name: (size * torch.randn(shape, generator=generator)).to(kind) for name, shape in shapes.items()}
    held["columns"] = held["columns"].T
    found = squares_of({**held, "zeros": torch.zeros(5, dtype=kind)})
    assert found.pop("zeros") == 0.0
    assert found == {name: pytest.approx(of_float64(t), rel=1e-5, abs=0) for name, t in held.items()}


def test_tensors_of_several_types_and_kinds():
    held = {
        "single": torch.tensor([3.0, 4.0]),
        "double": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "half": torch.tensor([2.0, 2.0], dtype=torch.float16),
        "parameter": nn.Parameter(torch.tensor([5.0])),
        "whole": torch.tensor([1, 2]),
        "sparse": torch.eye(2).to_sparse(),
        "meta": torch.ones(2, device="meta"),
    }
    assert squares_of(held) == pytest.approx({"single": 25.0, "double": 5.0, "half": 8.0, "parameter": 25.0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_shows(bad):
    found = squares_of({"good": torch.ones(3), "bad": torch.tensor([1.0, bad])})
    assert found["good"] == pytest.approx(3.0) and not np.isfinite(found["bad"])


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 8])
def test_the_same_bits(kind, size):
    one = torch.arange(1.0, size + 1, dtype=kind)
    one[0] = torch.nan
    other = one.clone()
    assert same_bits(one.nan_to_num(), other.nan_to_num())
    assert same_bits(one, other) == (size * one.element_size() % 8 == 0)
    other[-1] = 0.5
    assert not same_bits(one, other) and not same_bits(one[1:], one)
    assert same_bits(one[::2].nan_to_num(), one.clone()[::2].nan_to_num())
