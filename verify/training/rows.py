"""What the parameters of a layer multiply, asked of the layer itself: its update kernel follows from that alone.

A layer that is linear in its parameters, with one row of them for each unit, is ``z_s = [W, b] x~_s`` for some ``x~_s``
that depends on the input and on the map in front of the parameters. Then ``K_ss' = (x~_s . x~_s') I``. Not supported:
layers whose parameters occur in products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_WIDE = 16  # times as many inputs as samples, from which on a backward pass costs less than a forward pass of n units


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Return X~, of shape (B, n + 1): what [W, b] multiply in a layer that is linear in them, for ``x`` of (B, n).

    Units whose weights are the rows of I and whose bias is 0 show what W multiplies; one with W = 0 and b = 1 shows
    what b multiplies. Where inputs are many and samples few, each of B units is given the gradient of one sample alone,
    and the gradients of the units are the rows, exactly the same ones. Layers with places give (B, n + 1, ..), n the
    number of weights of a unit.
    """
    n = entries(layer)
    if x.dim() == 2 and n > _WIDE * len(x):
        with torch.enable_grad():
            theta = x.new_zeros(len(x), n + 1, requires_grad=True)
            z = with_units(layer, x.detach(), theta)
        return torch.autograd.grad(z, theta, torch.eye(len(x), dtype=x.dtype, device=x.device))[0]
    return with_units(layer, x, torch.eye(n + 1, dtype=x.dtype, device=x.device))


def with_units(layer: nn.Module, x: Tensor, theta: Tensor) -> Tensor:
    """Return what the layer gives for ``x`` with the units ``theta`` = [W, b] (m, n + 1) in the place of its own."""
    return with_parameters(layer, x, theta[:, :-1].reshape(-1, *weight_and_bias(layer)[0].shape[1:]), theta[:, -1])


def with_parameters(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what the layer gives for ``x`` with a weight (m, ...) and a bias (m,) in the place of its own.

    They stand in the layer's table of parameters for the one call: ``torch.func.functional_call`` does the same for any
    module, and costs as much as three forward passes of a small layer.
    """
    own = weight_and_bias(layer)
    table: dict[str, Any] = next(m._parameters for m in layer.modules() if m._parameters.get("weight") is own[0])
    table.update(weight=weight, bias=bias)
    try:
        z: Tensor = layer(x)
    finally:
        table.update(zip(("weight", "bias"), own, strict=True))
    return z


def as_samples(layer: nn.Module, z: Tensor) -> Tensor:
    """Return what a layer receives or gives with one axis of samples in front: tokens (B, T, ..) as (B * T, ..)."""
    return z.flatten(0, -2) if weight_and_bias(layer)[0].dim() == 2 else z


def entries(layer: nn.Module) -> int:
    """Return n, the number of weights of a unit."""
    return weight_and_bias(layer)[0][0].numel()


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return W, one row for each unit, and b (m,) of a layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight, bias
