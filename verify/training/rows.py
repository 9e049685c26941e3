"""Find the vectors x~ that a layer's parameters multiply, by calling the layer; they determine its update kernel.

A layer that is linear in its parameters, with one row of them per unit, is ``z_s = [W, b] x~_s`` for some ``x~_s`` that
depends on the input and on the map before the parameters. Then ``K_ss' = (x~_s . x~_s') I``. Not supported: layers with
products of parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_WIDE = 16  # ratio of inputs to samples above which a backward pass is cheaper than a forward pass of n units


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Return X~ (B, n + 1), the rows that [W, b] multiply in a layer linear in them, for ``x`` (B, n).

    The outputs of units with the rows of I as weights and bias 0 are what W multiplies; that of a unit with W = 0 and b
    = 1 is what b multiplies. With many inputs and few samples, each of B units instead receives the gradient of one
    sample alone, and the units' gradients are exactly the same rows. Layers with positions give (B, n + 1, ..), where n
    is the number of weights of a unit.
    """
    n = entries(layer)
    if x.dim() == 2 and n > _WIDE * len(x):
        with torch.enable_grad():
            theta = x.new_zeros(len(x), n + 1, requires_grad=True)
            z = with_units(layer, x.detach(), theta)
        return torch.autograd.grad(z, theta, torch.eye(len(x), dtype=x.dtype, device=x.device))[0]
    return with_units(layer, x, torch.eye(n + 1, dtype=x.dtype, device=x.device))


def with_units(layer: nn.Module, x: Tensor, theta: Tensor) -> Tensor:
    """Return the layer's output for ``x`` with the units ``theta`` = [W, b] (m, n + 1) instead of its own."""
    return with_parameters(layer, x, theta[:, :-1].reshape(-1, *weight_and_bias(layer)[0].shape[1:]), theta[:, -1])


def with_parameters(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the layer's output for ``x`` with a weight (m, ...) and a bias (m,) instead of its own.

    They replace the entries of the layer's parameter dictionary for the call. ``torch.func.functional_call`` does the
    same for any module, but costs as much as three forward passes of a small layer.
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
    """Return a layer's input or output with a single sample axis in front: tokens (B, T, ..) become (B * T, ..)."""
    return z.flatten(0, -2) if weight_and_bias(layer)[0].dim() == 2 else z


def entries(layer: nn.Module) -> int:
    """Return n, the number of weights of a unit."""
    return weight_and_bias(layer)[0][0].numel()


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return W, one row for each unit, and b (m,) of a layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight, bias
