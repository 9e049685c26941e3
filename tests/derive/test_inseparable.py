"""Inseparability of every convolution: four proved steps, with and without a bias, centred and not."""

from dataclasses import replace

import pytest

from derive.check import check_step
from derive.forward_map import LayerError
from derive.inseparable import inseparability
from derive.layers import layer
from derive.layers.convolution import convolution
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
    """One pixel gives the patch that sees it a mean, and none to the one beside it, whatever the divisors are."""
    steps = inseparability(convolution(dimensions, grouped=True, centred=True, bias=bias, name="drawn"))
    assert [check_step(step).status for step in steps] == [Status.PROVED] * 4
    reading, overlap, first, second = steps
    assert "m[" in str(reading.after) and "m[" in str(overlap.after)
    assert str(first.after) in ("1/K", "1/(Kh*Kw)") and second.after == 0


def test_a_layer_without_a_kernel_is_refused() -> None:
    with pytest.raises(LayerError, match="slides no kernel"):
        inseparability(layer("affine"))


def test_a_wrong_mean_is_refuted() -> None:
    *_, first, second = inseparability(convolution(1, grouped=True, centred=True, name="drawn"))
    for step in (replace(first, after=2 * first.after), replace(second, after=first.after)):
        assert check_step(step).status is Status.REFUTED
