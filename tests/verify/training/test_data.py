"""The data: three disjoint parts, standardised by the training part, determined by the seed."""

import pytest
import torch

from derive.errors import UsageError
from verify.training import data


@pytest.fixture(scope="module")
def digits():
    return data.digits(seed=3)


def test_parts_are_disjoint_and_complete(digits):
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1078, 360, 359)
    rows = torch.cat([digits.train.x, digits.validation.x, digits.test.x])
    assert len(rows.unique(dim=0)) == 1797


def test_training_part_is_standardised(digits):
    deviation = digits.train.x.std(dim=0, correction=0)
    varying = deviation > 0
    assert digits.train.x.mean(dim=0).abs().max() < 1e-12
    torch.testing.assert_close(deviation[varying], torch.ones(int(varying.sum()), dtype=torch.float64))
    assert 0 < int((~varying).sum()) < 10, "some pixels of the digits never change; they must not become NaN"
    assert all(torch.isfinite(part.x).all() for part in (digits.train, digits.validation, digits.test))


def test_split_follows_from_the_seed(digits):
    assert torch.equal(data.digits(seed=3).train.x, digits.train.x)
    other = data.digits(seed=4)
    assert not torch.equal(other.train.y, digits.train.y) and other.digest == digits.digest


def test_every_class_is_in_every_part(digits):
    for part in (digits.train, digits.validation, digits.test):
        assert part.y.unique().tolist() == list(range(digits.classes))
    assert digits.features == 64


def test_unknown_data_set_is_named():
    with pytest.raises(UsageError, match="'cifar' is not known"):
        data.load("cifar", 0)
