"""The samples, positions and features behind the largest self factors, on inputs for which they are known."""

import pytest
import torch
from torch import nn

import verify


def found(model, x):
    return verify.diagnose(model, x, lambda z: z.square().mean()).layers[0].extremes


def test_a_row_and_a_feature():
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    x[:, 4] *= 3
    x[13] *= 8
    told = found(nn.Linear(6, 2), x)
    assert told.largest[0] == ([13], pytest.approx(float(x[13].square().sum() + 1)))
    lengths = x.square().sum(1) + 1
    assert told.features[0] == (4, pytest.approx(float(x[:, 4].square().sum() / x.square().sum())))
    assert told.variation == pytest.approx(float(lengths.std(correction=0) / lengths.mean()))
    assert told.variation > 1.5 * told.expected


def test_a_token_of_a_sequence():
    x = torch.randn(3, 5, 4)
    x[2, 1] *= 20
    assert found(nn.Linear(4, 2), x).largest[0][0] == [2, 1]


def test_a_position_of_an_image_and_its_channel():
    x = torch.rand(2, 3, 6, 6)
    x[1, 2, 4, 3] = 30
    told = found(nn.Conv2d(3, 2, 1), x)
    assert told.largest[0] == ([1, 4, 3], pytest.approx(float(x[1, :, 4, 3].square().sum() + 1)))
    assert told.features[0][0] == 2


def test_the_expected_variation_is_that_of_gaussian_inputs():
    x = torch.randn(40_000, 12, generator=torch.Generator().manual_seed(1))
    told = found(nn.Linear(12, 2), x)
    assert told.variation == pytest.approx(told.expected, rel=0.02)


def test_tokens_have_no_features():
    told = found(nn.Embedding(5, 3), torch.tensor([[0, 1], [2, 2]]))
    assert told.features == () and told.expected is None and len(told.largest[0][0]) == 2
