"""Inseparability of every convolution: four proved steps, with and without a bias, and none for a centred one."""

import pytest

from derive.check import check_step
from derive.forward_map import LayerError
from derive.inseparable import inseparability
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


def test_a_centred_patch_is_no_plain_reading() -> None:
    with pytest.raises(LayerError, match="slides no kernel"):
        inseparability(convolution(1, grouped=True, centred=True, name="drawn"))
