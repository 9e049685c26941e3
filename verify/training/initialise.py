"""Initial values of parameters: pre-activations of unit variance (theory, section 2), or torch's values as a control.

With zero biases and weights of standard deviation sigma, ``Var z = sigma^2 * energy``, where the energy is the mean
squared length of the vector that the weights multiply: n E[x^2] for a plain layer, n after a normaliser, kappa - 1 for
norm-like, and kappa (times r^2/(r^2 + 1)) for affine-like, for rows and for patches. Hence sigma = 1/sqrt(energy):
1/sqrt(kappa) for affine-like, not 1/sqrt(n). Orthogonal weights have the same mean square; their rows, or columns if
these are fewer, are orthogonal and of equal length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

import affine_divergence as ad
from derive.errors import UsageError
from verify.training.config import generator
from verify.training.layers import Network, Normalised
from verify.training.rows import entries, with_units

_NODES = 80
_LEAST_ENERGY = 1e-12
Draw = Callable[[torch.Size, torch.Generator], Tensor]  # returns a weight of mean square 1


def torch_default(model: Network, seed: int) -> None:
    """Draw weights and biases as torch's own layers do, uniform within ±1/sqrt(n), the same for every method."""
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator
        for stream, layers in (("layer", model.affine_layers()), ("embedding", model.embeddings())):
            for position, layer in enumerate(layers):
                torch.manual_seed(generator("first values", seed, stream, position).initial_seed())
                if hasattr(layer, "init"):
                    layer.init = "torch"  # type: ignore[assignment]
                layer.reset_parameters()  # type: ignore[operator]


def variance_preserving(model: Network, seed: int) -> None:
    """Draw every weight from a normal distribution with mean 0 and the layer's sigma, and set every bias to zero.

    Embeddings are drawn so that their sum has entries of unit variance. Weights of equal shape differ between methods
    only by a factor.
    """
    _unit_variance(model, seed, _normal)


def orthogonal(model: Network, seed: int) -> None:
    """Like ``variance_preserving``, but each weight matrix (one row per unit) has orthogonal rows or columns."""
    _unit_variance(model, seed, semi_orthogonal)


def _unit_variance(model: Network, seed: int, draw: Draw) -> None:
    for position, (layer, second_moment) in enumerate(
        zip(model.measured_layers().values(), model.second_moments(), strict=True)
    ):
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        deviation = 1 / math.sqrt(energy(layer, second_moment))
        with torch.no_grad():
            weight.copy_(deviation * draw(weight.shape, generator("first values", seed, "layer", position)))
            bias.zero_()
    embeddings = model.embeddings()
    for position, embedding in enumerate(embeddings):
        drawn = _normal(embedding.weight.shape, generator("first values", seed, "embedding", position))
        with torch.no_grad():
            embedding.weight.copy_(drawn * len(embeddings) ** -0.5)


def _normal(shape: torch.Size, randomness: torch.Generator) -> Tensor:
    """Return normal random numbers, drawn in float64 whatever the dtype of the weight."""
    return torch.randn(shape, dtype=torch.float64, generator=randomness)


def semi_orthogonal(shape: torch.Size, randomness: torch.Generator) -> Tensor:
    """Return a weight (m, ...) of mean square 1 whose rows, or columns if these are fewer, are orthogonal.

    Q is multiplied by the signs of R's diagonal; otherwise it would not be uniform over the orthogonal matrices.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    tall = _normal(torch.Size((max(rows, columns), min(rows, columns))), randomness)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign() * math.sqrt(max(rows, columns))
    return (q if rows >= columns else q.T).reshape(shape)


def energy(layer: nn.Module, second_moment: float) -> float:
    """Return the mean squared length of the vector that the weights multiply; ``second_moment`` is the inputs' E[x^2].

    The effect of zero padding on patches is ignored.
    """
    if not hasattr(layer, "kappa"):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return weight[0].numel() * (1.0 if isinstance(layer, Normalised) else second_moment)
    if not isinstance(layer, ad.NormLike | ad.AffineLike) and not hasattr(layer, "form"):
        return _energy_along(layer, second_moment)
    kappa = float(layer.kappa)  # type: ignore[arg-type]
    normalising = isinstance(layer, ad.NormLike) or getattr(layer, "form", "") == "norm-like"
    return kappa - 1 if normalising else kappa


def _energy_along(layer: nn.Module, second_moment: float) -> float:
    """Return the energy as measured on the layer: its output for an input along the weight row."""
    x = torch.full((1, entries(layer)), math.sqrt(second_moment), dtype=torch.float64)
    unit = torch.cat([x / x.norm(), torch.zeros(1, 1, dtype=torch.float64)], dim=1)
    energy = float(with_units(layer, x, unit).square())
    if energy < _LEAST_ENERGY:
        raise UsageError(
            f"at this angle the weights have no effect on an input of mean square {second_moment:.3g}; choose another "
            "angle"
        )
    return energy


def mean_square(activation: nn.Module) -> float:
    """Return E[phi(Z)^2] of an activation for a standard normal Z, by Gauss-Hermite quadrature."""
    nodes, weights = _quadrature()
    values = activation(torch.tensor(nodes)).numpy()
    return float((weights * values**2).sum() / weights.sum())


@cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.hermite_e.hermegauss(_NODES)
