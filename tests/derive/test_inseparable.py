"""Inseparability of every convolution: four proved steps, with and without a bias, centred and not."""

from dataclasses import replace

import numpy as np
import pytest
from sympy import IndexedBase

from derive.cancel import solve
from derive.check import check_step
from derive.declare import forward
from derive.forward_map import Layer, LayerError
from derive.inseparable import inseparability, overlapping
from derive.layers import layer
from derive.layers.convolution import convolution, transposed_convolution
from derive.record import Status


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_every_step_is_proved(dimensions: int, bias: bool, grouped: bool) -> None:
    steps = inseparability(convolution(dimensions, bias=bias, grouped=grouped, name="drawn"))
    assert [check_step(step).status for step in steps] == [Status.PROVED] * 4
    first, second = steps[-2:]
    assert second.after == int(bias)
    assert first.after != second.after  # the contradiction


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_centred_convolution_is_inseparable_too(dimensions: int, bias: bool) -> None:
    """One pixel gives a mean to the patch that holds it and none to its neighbour, whatever the divisors are."""
    steps = inseparability(convolution(dimensions, grouped=True, centred=True, bias=bias, name="drawn"))
    assert [check_step(step).status for step in steps] == [Status.PROVED] * 4
    reading, overlap, first, second = steps
    assert "m[" in str(reading.after) and "m[" in str(overlap.after)
    assert str(first.after) in ("1/K", "1/(Kh*Kw)") and second.after == 0


def test_a_layer_without_a_kernel_is_refused() -> None:
    with pytest.raises(LayerError, match="does not slide a kernel"):
        inseparability(layer("affine"))


def test_a_wrong_mean_is_refuted() -> None:
    *_, first, second = inseparability(convolution(1, grouped=True, centred=True, name="drawn"))
    for step in (replace(first, after=2 * first.after), replace(second, after=first.after)):
        assert check_step(step).status is Status.REFUTED


def drawn(formula: str, inputs: str = "c l", kernel: str = "o c k", bias: str | None = "o", axes: str = "o p") -> Layer:
    """A layer with its own names: the kernel is ``ker``, the image ``img``."""
    offset = "" if bias is None else f" + beta[{formula[2]}]"
    return forward(
        "drawn",
        sizes="c o k l p",
        inputs={"img": inputs},
        parameters={"ker": kernel, **({} if bias is None else {"beta": bias})},
        formulas=[formula + offset],
        axes=axes,
    )


SLIDING = {
    "other names": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,t+q])"),
    "without a bias": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,t+q])", bias=None),
    "strided and dilated": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,3*t+2*q])"),
    "a common factor": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,4*t+2*q])"),
    "a kernel a position": drawn("z[t] = sum[a,q](ker[t,a,q]*img[a,t+q])", "c l", "p c k", "p", "p"),
    "reversed": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,t-q])"),
    "depthwise": drawn("z[a,t] = sum[q](ker[a,q]*img[a,t+q])", kernel="c k", bias="c", axes="c p"),
    "along the first axis": drawn("z[t,i] = sum[a,q](ker[i,q,a]*img[t+q,a])", "l c", "o k c", None, "p o"),
    "scaled": drawn("z[i,t] = 3*sum[a,q](ker[i,a,q]*img[a,t+q])"),
    "beside a skip": drawn("z[i,t] = img[i,t] + sum[a,q](ker[i,a,q]*img[a,t+q])", kernel="c c k", bias="c", axes="c l"),
    "transposed": transposed_convolution(1),
    "transposed, grouped": transposed_convolution(2, grouped=True),
}


@pytest.mark.parametrize("name", SLIDING)
def test_whatever_slides_is_inseparable_under_any_names(name: str) -> None:
    steps = inseparability(SLIDING[name])
    reading, overlap, first, second = steps
    assert {check_step(step).status for step in steps} <= {Status.PROVED, Status.SAMPLED}
    assert [check_step(step).status for step in (reading, overlap, first)] == [Status.PROVED] * 3
    assert "n" in {str(base.label) for base in reading.after.atoms(IndexedBase)}
    assert first.after != second.after and overlap.after != 0
    wrong = replace(second, after=first.after)
    assert check_step(wrong).status is Status.REFUTED


SILENT = {
    "features of the image": drawn("z[i,t] = sum[a,q](ker[i,a,q]*tanh(img[a,t+q]))"),
    "squares of the image": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,t+q]**2)"),
    "a window of its own each": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,2*t+q])", kernel="o c 2"),
    "gaps between windows": drawn("z[i,t] = sum[a,q](ker[i,a,q]*img[a,3*t+q])", kernel="o c 2"),
    "no window": layer("affine"),
    "a mixture": layer("attention-value"),
}


@pytest.mark.parametrize("name", SILENT)
def test_where_the_assumption_fails_nothing_is_said(name: str) -> None:
    assert not overlapping(SILENT[name])
    assert not any("inseparable" in step.id for found in solve(SILENT[name]) for step in found.steps)


def test_features_can_be_separable() -> None:
    """Why features are excluded: if a feature does not depend on the pixel's value, the divisor is constant."""
    image, kernel = np.random.default_rng(0).normal(size=(2, 7)), np.ones((2, 3))
    signs = np.sign(image) ** 2
    patches = np.lib.stride_tricks.sliding_window_view(signs, 3, axis=1)
    energies = np.einsum("cpk,ck->p", patches**2, kernel)
    assert np.ptp(energies) == 0


def test_names_of_the_argument_meet_no_name_of_the_layer() -> None:
    taken = forward(
        "taken",
        sizes="c o k l p",
        inputs={"n": "c l"},
        parameters={"divisor": "o c k"},
        formulas=["z[i,t] = sum[a,q](divisor[i,a,q]*n[a,t+q])"],
        axes="o p",
    )
    reading = inseparability(taken)[0]
    assert {str(base.label) for base in reading.after.atoms(IndexedBase)} == {"n", "n_x", "divisor_2"}
    assert check_step(reading).status is Status.PROVED
