"""Special layers in the manifest: the general layer's code computes their maps."""

import json
from pathlib import Path

import numpy
import pytest
import torch

import affine_divergence as ad
import derive
from codegen.catalogue import covered
from codegen.ir.interpret import interpret
from codegen.lower.gathering import lower

KAPPA = 1.7
COVERED = json.loads(Path(ad.__file__).with_name("manifest.json").read_text(encoding="utf-8"))["covers"]
GEOMETRY = {"stride": 2, "padding": 1, "dilation": 1}
TOKENS = {"B": 2, "T": 3, "n": 5, "R": 2, "d": 3, "m": 6}


def sizes_of(program):
    """Return a length for every axis, and one geometry for all axes of space."""
    sizes = {"B": 2, "C": 2, "O": 3}
    for k, axis in enumerate(("", "d", "h", "w")):
        length, kernel = 4 + k, 2
        reach, border = GEOMETRY["dilation"] * (kernel - 1), 2 * GEOMETRY["padding"]
        sizes |= {f"L{axis}": length, f"K{axis}": kernel, **{f"{n}{axis}": v for n, v in GEOMETRY.items()}}
        sizes[f"P{axis}"] = (length + border - reach - 1) // GEOMETRY["stride"] + 1
        sizes[f"Q{axis}"] = (length - 1) * GEOMETRY["stride"] - border + reach + 1
    return sizes if any(i.size.name == "C" for v in program.inputs for i in v.indices) else TOKENS


def convolved(form, x, W, b, turned):
    word = "_transpose" if turned else ""
    function = getattr(ad.functional, f"patch_norm_conv{word}{W.ndim - 2}d")
    return function(x, W, b, form=form, kappa=KAPPA, **GEOMETRY)


def projected(form, x, W, b):
    """Tokens to heads: x (B, T, n) and W (R, d, n) to (B, R, T, d)."""
    flat = function_of(form)(x, W.flatten(0, 1), b.flatten(), kappa=KAPPA)
    return flat.unflatten(-1, b.shape).transpose(1, 2)


def merged(form, c, W, b):
    """Heads to tokens: c (B, R, T, d) and W (m, R, d) to (B, T, m)."""
    return function_of(form)(c.transpose(1, 2).flatten(2), W.flatten(1), b, kappa=KAPPA)


def function_of(form):
    return getattr(ad.functional, form.replace("-", "_"))


def generated(name, form, tensors):
    """Return the output by the code of the general layer."""
    if name == "attention-projection":
        return projected(form, *tensors)
    if name == "attention-output":
        return merged(form, *tensors)
    return convolved(form, *tensors, turned=name.startswith("transposed"))


@pytest.mark.parametrize("special", COVERED)
def test_the_general_code_computes_the_special_map(special):
    name, form = special.split("/")
    program = lower(derive.solve(derive.layer(name))[form].mapped)
    sizes, rng = sizes_of(program), numpy.random.default_rng(5)
    inputs = {v.name: rng.normal(size=[sizes[i.size.name] for i in v.indices]) for v in program.inputs}
    expected = interpret(program, inputs, {"kappa": KAPPA}, sizes)["z"]
    found = generated(name, form, [torch.from_numpy(a) for a in inputs.values()])
    numpy.testing.assert_allclose(found, expected, rtol=1e-10)


def test_only_what_code_was_derived_for_is_covered():
    assert covered(["grouped-convolution/affine-like"]) == {
        f"convolution{axes}/affine-like": "grouped-convolution/affine-like" for axes in ("", "-1d", "-3d")
    }
    assert covered(["somebody/else"]) == {}
