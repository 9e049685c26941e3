"""Formulas that become too large when multiplied out are refused at once; others are read."""

import time

import pytest

from derive.errors import UsageError
from derive.spec import loads_spec

TEXT = """
name = "power"
sizes = ["n"]
[input]
x = ["n"]
[parameters]
W = ["n", "n"]
b = ["n"]
[output]
z = ["n"]
definitions = [{definitions}]
formula = "z[i] = {formula}"
"""
AFFINE = "(sum[j](W[i, j]*x[j]) + b[i])"


def read(formula, *definitions):
    quoted = ", ".join(f'"{one}"' for one in definitions)
    return loads_spec(TEXT.format(formula=formula, definitions=quoted), "power.toml")


@pytest.mark.parametrize(
    "given",
    [
        (f"{AFFINE}**16",),
        (f"({AFFINE}**4 + b[i])**4",),
        ("(x[i] + b[i] + W[i, i])**16",),
        ("((x[i] + b[i])**2 + 1)**8*((W[i, i] + b[i])**2 + x[i])**8",),
        (" * ".join([AFFINE] * 9),),
        ("v[i]**4", f"u[i] = {AFFINE}**2", "v[i] = u[i]**3 + x[i]"),
        (f"exp({AFFINE}**12)",),
        ("((((x[i]*W[i, i] + b[i])**16 + 1)**16 + 1)**16 + 1)**16",),
    ],
)
def test_what_explodes_is_refused_at_once_with_its_place(given):
    began = time.process_time()
    with pytest.raises(UsageError, match=r"power\.toml, line \d+, column \d+: multiplied out, the formula has more"):
        read(*given)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    "formula",
    [
        f"{AFFINE}**6",
        "(x[i] + b[i] + W[i, i])**8",
        "sum[j](W[i, j]*x[j])**16 + b[i]",
        f"sqrt({AFFINE})**15",
        f"1/{AFFINE}**8",
        f"tanh({AFFINE})*tanh({AFFINE})",
    ],
)
def test_what_does_not_is_read(formula):
    assert read(formula).name == "power"
