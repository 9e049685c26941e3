"""A convolutional network for images, in which all layers, including the last, use one method.

    image -> ``depth`` times (convolution of ``width`` channels, activation) -> mean over space -> classes

Every second convolution halves the image while the shorter side has at least 8 pixels: by a stride of 2, or by average
pooling of 2 x 2 pixels after its activation. Not supported: images of a size other than the one it was built for.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

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
        kernel: the odd side of all kernels.
        groups: the channel groups of all convolutions but the first.
        halving: what halves the image, ``stride`` or ``pool``.
    """

    chunk, probed = 256, 8

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        method: str,
        width: int,
        depth: int,
        activation: str,
        kernel: int = 3,
        groups: int = 1,
        halving: str = "stride",
    ) -> None:
        super().__init__()
        self.shape = shape
        channels, halved = (shape[0], *[width] * depth), strides(min(shape[1:]), depth)
        self.convolutions = nn.ModuleList(
            make_convolution(
                method, channels[k], channels[k + 1], 1 if halving == "pool" else stride, kernel, groups if k else 1
            )
            for k, stride in enumerate(halved)
        )
        self.pooled = [stride if halving == "pool" else 1 for stride in halved]
        self.last = make_layer(method, width, classes)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores: (B, channels * height * width) -> (B, classes)."""
        x = x.unflatten(1, self.shape)
        for convolution, side in zip(self.convolutions, self.pooled, strict=True):
            x = self.activation(convolution(x))
            x = functional.avg_pool2d(x, side, ceil_mode=True) if side > 1 else x
        return cast(Tensor, self.last(x.mean(dim=(2, 3))))

    def measured_layers(self) -> dict[str, nn.Module]:
        """Return the convolutions and the last layer, by name."""
        layers = (*self.convolutions, self.last)
        return {f"layer {number}": layer for number, layer in enumerate(layers, start=1)}

    def second_moments(self) -> list[float]:
        """Return E[x^2] of each layer's input; spatial means are treated as if all positions had equal values."""
        return [1.0, *[mean_square(self.activation)] * len(self.convolutions)]


def strides(side: int, depth: int) -> list[int]:
    """Return the factors by which ``depth`` convolutions shrink an image whose shorter side has ``side`` pixels."""
    found = []
    for number in range(1, depth + 1):
        found.append(2 if number % 2 == 0 and side >= _LEAST_SIDE else 1)
        side = -(-side // found[-1])
    return found
