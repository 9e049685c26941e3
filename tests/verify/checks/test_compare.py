"""Errors as numbers: relative to the largest entry, and never lost to NaN."""

import math

import numpy as np
import pytest

from verify.checks.compare import largest, relative_error


@pytest.mark.parametrize(
    ("value", "expected", "scale", "error"),
    [
        ([1.0, 2.0], [1.0, 4.0], None, 0.5),
        ([1.0, 2.0], [1.0, 4.0], 8.0, 0.25),
        ([0.0], [0.0], None, 0.0),
        ([1e-30], [0.0], None, math.inf),
        ([math.nan], [1.0], None, math.inf),
        ([1.0], [math.inf], None, math.inf),
        ([], [], None, 0.0),
        ([1.0], [1.0, 1.0], None, math.inf),
    ],
)
def test_relative_error(value, expected, scale, error):
    assert relative_error(np.array(value), np.array(expected), scale) == error


def test_largest_keeps_a_nan():
    assert largest([0.1, math.nan, 0.2]) == math.inf
    assert largest([0.1, 0.3, 0.2]) == 0.3
    assert largest([]) == math.inf, "no measurement is no proof"
