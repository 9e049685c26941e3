"""The network of a trial: an MLP whose every affine layer, the last one included, is of one method.

``none`` and the normalisers are torch's own layers, each normaliser parameterless and in front of the affine map;
``norm-like`` and ``affine-like`` are the generated ones. Not supported: convolutions, attention.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

import affine_divergence as ad
from verify.training.config import TrialConfig, generator
from verify.training.initialise import torch_default, variance_preserving

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "leaky-relu": nn.LeakyReLU, "relu": nn.ReLU}
_LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": nn.Linear,
    "batch-norm": lambda n, m: Normalised(nn.BatchNorm1d(n, affine=False), nn.Linear(n, m)),
    "layer-norm": lambda n, m: Normalised(nn.LayerNorm(n, elementwise_affine=False), nn.Linear(n, m)),
    "rms-norm": lambda n, m: Normalised(nn.RMSNorm(n, elementwise_affine=False), nn.Linear(n, m)),
    "norm-like": ad.NormLike,
    "affine-like": ad.AffineLike,
}


def make_layer(method: str, inputs: int, outputs: int) -> nn.Module:
    """Return a layer of a method, (B, inputs) -> (B, outputs)."""
    return _LAYERS[method](inputs, outputs)


class Normalised(nn.Module):
    """A normaliser without parameters, then an affine map: one layer, whose parameters are the affine map's."""

    def __init__(self, normaliser: nn.Module, affine: nn.Linear) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.affine = affine

    @property
    def weight(self) -> Tensor:
        """The affine map's weight, of shape (m, n)."""
        return self.affine.weight

    @property
    def bias(self) -> Tensor:
        """The affine map's bias, of shape (m,)."""
        return self.affine.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the affine map of the normalised ``x``: (B, n) -> (B, m)."""
        return cast(Tensor, self.affine(self.normaliser(x)))


class MLP(nn.Module):
    """``depth`` hidden layers of one width with an activation after each, then a layer of one unit per class."""

    def __init__(self, features: int, classes: int, *, method: str, width: int, depth: int, activation: str) -> None:
        super().__init__()
        sizes = (features, *[width] * depth, classes)
        self.layers = nn.ModuleList(make_layer(method, n, m) for n, m in pairwise(sizes))
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores: (B, features) -> (B, classes)."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return cast(Tensor, self.layers[-1](x))

    def measured_layers(self) -> dict[str, nn.Module]:
        """Return the layers whose self factor a probe measures, by name, from input to output."""
        return {f"layer {number}": layer for number, layer in enumerate(self.layers, start=1)}

    def affine_layers(self) -> list[nn.Module]:
        """Return the maps that carry the parameters, without the normalisers in front of them."""
        return [layer.affine if isinstance(layer, Normalised) else layer for layer in self.layers]


def build(config: TrialConfig, features: int, classes: int, identity: str | None = None) -> MLP:
    """Return the network of a trial, initialised from ``identity``, which is the settings' digest if not given."""
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw weights, which are drawn anew below
        model = MLP(
            features,
            classes,
            method=config.method,
            width=config.width,
            depth=config.depth,
            activation=config.activation,
        ).to(config.torch_dtype)
    randomness = generator(identity or config.digest, "initialise")
    if config.init == "torch":
        torch_default(model, randomness)
    else:
        variance_preserving(model, config.method, randomness)
    return model.to(config.device)
