"""Measure the self factor of real layers, sample by sample, from the module alone.

For a sample s with output z_s and a unit vector v over the units, ``v^T K_ss v`` is the sum over all parameters of
``(d(v.z_s)/dtheta)^2``. Automatic differentiation gives that for any layer; no formula of any method enters. For an
isotropic self factor kappa I it is kappa, whatever v. The layer's input is held fixed, as in theory, section 1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from verify.training.models import MLP


@dataclass(frozen=True)
class Spread:
    """How the self factor of one layer is distributed over the probed samples at one step of training."""

    step: int
    layer: str
    minimum: float
    median: float
    maximum: float
    mean: float
    coefficient_of_variation: float

    @property
    def ratio(self) -> float:
        """Largest over smallest self factor: 1 where every sample is moved by the same factor."""
        return self.maximum / self.minimum


def measure_model(model: MLP, x: Tensor, step: int, generator: torch.Generator) -> list[Spread]:
    """Return the spread of every layer's self factor over the samples ``x``, leaving the model as it was.

    A copy in float64 and in training mode is measured, so that batch statistics are those of ``x`` and rounding does
    not hide what the map does.
    """
    twin = copy.deepcopy(model).double().train()
    inputs = _inputs(twin, x.double())
    spreads = []
    for name, layer in twin.measured_layers().items():
        factors = self_factors(layer, inputs[name], generator)
        spreads.append(summarise(step, name, factors))
    return spreads


def self_factors(layer: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``v^T K_ss v``, of shape (B,), for ``x`` of shape (B, n) and one random unit vector v."""
    parameters = [p for p in layer.parameters() if p.requires_grad]
    z = layer(x.detach())
    v = torch.randn(z.shape[-1], dtype=z.dtype, generator=generator).to(z.device)
    along = z @ (v / v.norm())
    factors = []
    for value in along:
        gradients = torch.autograd.grad(value, parameters, retain_graph=True)
        factors.append(sum((g.square().sum() for g in gradients), start=torch.zeros((), dtype=z.dtype)))
    return torch.stack(factors)


def summarise(step: int, layer: str, factors: Tensor) -> Spread:
    """Return the spread of the self factors of shape (B,)."""
    mean = factors.mean()
    return Spread(
        step=step,
        layer=layer,
        minimum=float(factors.min()),
        median=float(factors.quantile(0.5)),
        maximum=float(factors.max()),
        mean=float(mean),
        coefficient_of_variation=float(factors.std(correction=0) / mean),
    )


def _inputs(model: MLP, x: Tensor) -> dict[str, Tensor]:
    """Return what each measured layer receives when the model sees ``x``."""
    seen: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, arguments, name=name: seen.__setitem__(name, arguments[0].detach()))
        for name, layer in model.measured_layers().items()
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return seen
