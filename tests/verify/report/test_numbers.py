"""Numbers on the page."""

import math

import pytest

from verify.report.numbers import duration, factor, number, percent, with_powers


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (4.6412, "4.64"),
        (65.0, "65"),
        (-0.5, "−0.5"),
        (0.00123, "0.00123"),
        (1e-12, "10⁻¹²"),
        (8199.0, "8200"),
        (8.88e-16, "8.9 × 10⁻¹⁶"),
        (3.0e-15, "3 × 10⁻¹⁵"),
        (1234567.0, "1.2 × 10⁶"),
        (math.inf, "∞"),
        (math.nan, "not a number"),
    ],
)
def test_number(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "1"), (1 + 4e-16, "1 + 4.4 × 10⁻¹⁶"), (1 - 1e-5, "1 − 10⁻⁵"), (2.0, "2"), (4.641, "4.64"), (147.39, "147")],
)
def test_factor(value, shown):
    assert factor(value) == shown


def test_exponents_in_a_text_are_powers():
    assert with_powers("from 8e+03 to 4.4e18, rate 1e-05") == "from 8 × 10³ to 4.4 × 10¹⁸, rate 1 × 10⁻⁵"
    assert with_powers("layer1e5, v1.2e3x and model.1e4") == "layer1e5, v1.2e3x and model.1e4"


def test_percent_and_duration():
    assert (percent(0.98412), percent(-1e-5), percent(None)) == ("98.4\u202f%", "0.0\u202f%", "–")
    assert [duration(s) for s in (0.04, 9.96, 33.2, 65.0)] == ["0.0 s", "10.0 s", "33 s", "1 min 5 s"]
