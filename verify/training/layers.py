"""The layers of which networks are built: each is one affine map, corrected, normalised or plain.

    method               rows (B, n)                            images (B, channels, height, width)
    none                 Linear                                 Conv2d
    batch-norm           BatchNorm1d, Linear                    BatchNorm2d, Conv2d
    layer-norm           LayerNorm, Linear                      LayerNorm over each whole image, Conv2d
    rms-norm             RMSNorm, Linear                        RMSNorm over each whole image, Conv2d
    rms-norm-eps         RMSNorm with eps = 1/n, Linear         -
    norm-like            NormLike                               -
    affine-like          AffineLike                             -
    affine-like-n+1      AffineLike(kappa=n + 1)                -
    angle                generated for the trial's angle        -
    patch-norm           AffineLike                             PatchNormConv2d, its own form: affine-like
    patch-norm-like      NormLike                               PatchNormConv2d(form="norm-like")
    patch-norm-centred   NormLike(center=True)                  PatchNormConv2d(form="norm-like", center=True)

Every normaliser is torch's, without parameters, before the affine map. ``patch-norm`` is the non-normalising correction
of a convolution, ``patch-norm-like`` the normalising one, and ``patch-norm-centred`` Killeen's variant of it, which
subtracts the mean of each patch first. The column "rows" of these three applies to a convolutional network's last
layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

import affine_divergence as ad
from verify.training.angles import layer_class
from verify.training.config import WIDE_KAPPA

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "leaky-relu": nn.LeakyReLU, "relu": nn.ReLU}


class Normalised(nn.Module):
    """A normaliser without parameters, followed by an affine map, as one layer with the affine map's parameters."""

    def __init__(self, normaliser: nn.Module, affine: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.affine = affine

    @property
    def weight(self) -> Tensor:
        """The affine map's weight, of shape (m, n) or (m, channels, height, width)."""
        return self.affine.weight

    @property
    def bias(self) -> Tensor:
        """The affine map's bias, of shape (m,)."""
        return cast(Tensor, self.affine.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the affine map of the normalised ``x``: (B, n) -> (B, m), or images to images."""
        return cast(Tensor, self.affine(self.normaliser(x)))


class ImageNorm(nn.Module):
    """A normaliser over all entries of an image; ``normalise`` takes the images and the shape of one image."""

    def __init__(self, normalise: Callable[[Tensor, list[int]], Tensor]) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised images, in the shape of ``x``."""
        return self.normalise(x, list(x.shape[1:]))


_ROWS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": nn.Linear,
    "batch-norm": lambda n, m: Normalised(nn.BatchNorm1d(n, affine=False), nn.Linear(n, m)),
    "layer-norm": lambda n, m: Normalised(nn.LayerNorm(n, elementwise_affine=False), nn.Linear(n, m)),
    "rms-norm": lambda n, m: Normalised(nn.RMSNorm(n, elementwise_affine=False), nn.Linear(n, m)),
    "rms-norm-eps": lambda n, m: Normalised(nn.RMSNorm(n, eps=1 / n, elementwise_affine=False), nn.Linear(n, m)),
    "norm-like": ad.NormLike,
    "affine-like": ad.AffineLike,
    WIDE_KAPPA: lambda n, m: ad.AffineLike(n, m, kappa=n + 1.0),
    "patch-norm": ad.AffineLike,
    "patch-norm-like": ad.NormLike,
    "patch-norm-centred": partial(ad.NormLike, center=True),
}
_IMAGES: dict[str, Callable[[int, nn.Conv2d], nn.Module]] = {
    "none": lambda channels, convolution: convolution,
    "batch-norm": lambda channels, convolution: Normalised(nn.BatchNorm2d(channels, affine=False), convolution),
    "layer-norm": lambda channels, convolution: Normalised(ImageNorm(functional.layer_norm), convolution),
    "rms-norm": lambda channels, convolution: Normalised(ImageNorm(functional.rms_norm), convolution),
}
_PATCHES: dict[str, Callable[..., nn.Module]] = {
    "patch-norm": ad.PatchNormConv2d,
    "patch-norm-like": partial(ad.PatchNormConv2d, form="norm-like"),
    "patch-norm-centred": partial(ad.PatchNormConv2d, form="norm-like", center=True),
}


def make_layer(method: str, inputs: int, outputs: int, angle: str | None = None) -> nn.Module:
    """Return a layer of a method, (B, inputs) -> (B, outputs); ``angle`` is only for the method ``angle``."""
    if angle is not None:
        return layer_class(angle)(inputs, outputs)
    return _ROWS[method](inputs, outputs)


def make_convolution(
    method: str, inputs: int, outputs: int, stride: int, kernel: int = 3, groups: int = 1
) -> nn.Module:
    """Return a zero-padded convolution of a method, from ``inputs`` to ``outputs`` channels.

    ``kernel`` is the odd side of its square kernel; ``groups`` divides both numbers of channels.
    """
    if method in _PATCHES:
        return _PATCHES[method](inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups)
    plain = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return _IMAGES[method](inputs, plain)


class Network(nn.Module, ABC):
    """The interface of all networks.

    ``chunk`` is the number of samples evaluated at once, ``evaluated`` the number of training samples (the first ones)
    that determine the training loss, and ``probed`` the number of probed samples.
    """

    chunk, probed, evaluated = 4_096, 32, 10_000
    activation: nn.Module

    @abstractmethod
    def measured_layers(self) -> dict[str, nn.Module]:
        """Return the probed layers by name, from input to output."""

    @abstractmethod
    def second_moments(self) -> list[float]:
        """Return E[x^2] of each measured layer's input entries, as assumed when initial values are drawn."""

    def embeddings(self) -> list[nn.Embedding]:
        """Return the embeddings, whose sum should have entries of unit variance; most networks have none."""
        return []

    def affine_layers(self) -> list[nn.Module]:
        """Return the affine maps, which have the parameters, without the normalisers before them."""
        layers = self.measured_layers().values()
        return [layer.affine if isinstance(layer, Normalised) else layer for layer in layers]


def loss_of(scores: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats, of scores (.., classes) for the classes y (..)."""
    if scores.dim() > 2:
        scores, y = scores.flatten(0, -2), y.flatten()
    return functional.cross_entropy(scores, y)
