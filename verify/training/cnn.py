"""A convolutional network for images, in which all layers, including the last, use one method.

    image -> ``depth`` times (convolution of ``width`` channels, activation) -> mean over space -> classes

Every second convolution has stride 2 while the shorter side has at least 8 pixels. Not supported: images of a size
other than the one it was built for, pooling between layers.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from verify.training.initialise import mean_square
from verify.training.layers import ACTIVATIONS, Network, make_convolution, make_layer

_LEAST_SIDE = 8


class CNN(Network):
    """``depth`` convolutions of one width, the mean over space, then a layer with one unit per class.

    Args:
        shape: (channels, height, width) of an image; the inputs are flattened.
        classes: the number of classes.
        method: the kind of its layers.
        width: the number of channels of each convolution.
        depth: the number of convolutions.
        activation: the name of the activation after each convolution.
    """

    chunk, probed = 256, 8

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, method: str, width: int, depth: int, activation: str
    ) -> None:
        super().__init__()
        self.shape = shape
        channels = (shape[0], *[width] * depth)
        self.convolutions = nn.ModuleList(
            make_convolution(method, channels[k], channels[k + 1], stride)
            for k, stride in enumerate(strides(min(shape[1:]), depth))
        )
        self.last = make_layer(method, width, classes)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores: (B, channels * height * width) -> (B, classes)."""
        x = x.unflatten(1, self.shape)
        for convolution in self.convolutions:
            x = self.activation(convolution(x))
        return cast(Tensor, self.last(x.mean(dim=(2, 3))))

    def measured_layers(self) -> dict[str, nn.Module]:
        """Return the convolutions and the last layer, by name."""
        layers = (*self.convolutions, self.last)
        return {f"layer {number}": layer for number, layer in enumerate(layers, start=1)}

    def second_moments(self) -> list[float]:
        """Return E[x^2] of each layer's input; the spatial mean is treated as if all positions had equal values."""
        return [1.0, *[mean_square(self.activation)] * len(self.convolutions)]


def strides(side: int, depth: int) -> list[int]:
    """Return the strides of ``depth`` convolutions of an image whose shorter side has ``side`` pixels."""
    found = []
    for number in range(1, depth + 1):
        found.append(2 if number % 2 == 0 and side >= _LEAST_SIDE else 1)
        side = -(-side // found[-1])
    return found
