"""Build the network of a trial from its settings: the MLP here, others in ``cnn`` and ``transformer``.

Every affine layer, including the last, uses one method, see ``layers``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.training.cnn import CNN
from verify.training.config import TrialConfig
from verify.training.dataset import Dataset
from verify.training.initialise import mean_square, orthogonal, torch_default, variance_preserving
from verify.training.layers import ACTIVATIONS, Network, Normalised, make_layer
from verify.training.transformer import Transformer

__all__ = ["MLP", "Network", "Normalised", "build", "build_for", "demand_fit", "make_layer"]


class MLP(Network):
    """``depth`` hidden layers of one width, each followed by an activation, then a layer with one unit per class."""

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        method: str,
        width: int,
        depth: int,
        activation: str,
        angle: str | None = None,
    ) -> None:
        super().__init__()
        sizes = (features, *[width] * depth, classes)
        self.layers = nn.ModuleList(make_layer(method, n, m, angle) for n, m in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores: (B, features) -> (B, classes)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return cast(Tensor, last(x))

    def measured_layers(self) -> dict[str, nn.Module]:
        """Return the layers by name, from input to output."""
        return {f"layer {number}": layer for number, layer in enumerate(self.layers, start=1)}

    def second_moments(self) -> list[float]:
        """Return E[x^2] of each layer's input: 1 for standardised data, then that of the activation's output."""
        return [1.0, *[mean_square(self.activation)] * (len(self.layers) - 1)]


def demand_fit(config: TrialConfig, kind: str) -> None:
    """Raise UsageError unless the trial's model can read data of the given kind."""
    readable = _READ[config.model]
    if kind not in readable:
        raise UsageError(
            f"model = {config.model!r} reads {' or '.join(readable)}, but this data is {kind}; choose another model or "
            "other data"
        )


def build(config: TrialConfig, features: int, classes: int, shape: tuple[int, ...] = ()) -> Network:
    """Return the network of a trial with its initial values.

    Args:
        config: the settings.
        features: the number of entries of a sample.
        classes: the number of classes.
        shape: (channels, height, width) of a sample, for models that read images.
    """
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw weights, which are replaced below
        model = _MODELS[config.model](config, shape or (features,), classes).double()
    if config.device == "cpu":
        take_torch(model)
    _FIRST_VALUES[config.init](model, config.seed)
    return model.to(config.torch_dtype).to(config.device)


def take_torch(model: nn.Module) -> None:
    """Make every layer use torch's operations, so that a trial's bits do not depend on the machine's compiler."""
    for layer in model.modules():
        if "backend" in vars(layer):
            vars(layer).update(backend="torch")


def build_for(config: TrialConfig, data: Dataset) -> Network:
    """Return the network of a trial for its data, with initial values; UsageError for data that it cannot read."""
    demand_fit(config, data.kind)
    return build(config, data.features, data.classes, data.shape)


def _mlp(config: TrialConfig, shape: tuple[int, ...], classes: int) -> Network:
    return MLP(torch.Size(shape).numel(), classes, **_sizes(config), angle=config.angle)


def _cnn(config: TrialConfig, shape: tuple[int, ...], classes: int) -> Network:
    own = {name: getattr(config, name) for name in ("kernel", "groups", "halving")}
    return CNN(cast(tuple[int, int, int], shape), classes, **_sizes(config), **own)


def _transformer(config: TrialConfig, shape: tuple[int, ...], classes: int) -> Network:
    return Transformer(shape[0], classes, **_sizes(config))


def _sizes(config: TrialConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("method", "width", "depth", "activation")}


_MODELS: dict[str, Callable[[TrialConfig, tuple[int, ...], int], Network]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "transformer": _transformer,
}
_FIRST_VALUES = {"variance-preserving": variance_preserving, "orthogonal": orthogonal, "torch": torch_default}
_READ = {"mlp": ("rows", "images"), "cnn": ("images",), "transformer": ("text",)}
