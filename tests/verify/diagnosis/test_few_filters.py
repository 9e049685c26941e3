"""A convolution with few filters as one matrix product equals torch's."""

import pytest
import torch
from torch import nn

from verify.diagnosis.step import by_taps


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 7)),
        (nn.Conv2d(3, 4, (3, 2), padding=(2, 1), dilation=(2, 3)), (2, 3, 6, 7)),
        (nn.Conv2d(3, 4, 3, padding=5), (1, 3, 2, 2)),
        (nn.Conv1d(3, 4, 5, padding="same", padding_mode="circular"), (2, 3, 9)),
        (nn.Conv1d(3, 4, 5, dilation=3, padding="same"), (2, 3, 4)),
        (nn.Conv3d(3, 4, (1, 2, 3)), (2, 3, 5, 6, 7)),
    ],
)
def test_a_few_filters(layer, shape):
    x, filters = torch.randn(shape, dtype=torch.float64), torch.randn(2, 3, *layer.kernel_size, dtype=torch.float64)
    torch.testing.assert_close(
        by_taps(layer, filters, x), layer._conv_forward(x, filters, None), rtol=1e-12, atol=1e-12
    )
