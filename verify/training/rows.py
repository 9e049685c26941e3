"""What the parameters of a layer multiply, asked of the layer itself: its update kernel follows from that alone.

A layer that is linear in its parameters, with one row of them for each unit, is ``z_s = [W, b] x~_s`` for some ``x~_s``
that depends on the input and on the map in front of the parameters. Then ``K_ss' = (x~_s . x~_s') I``. Not supported:
layers whose parameters occur in products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

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
    weight, bias = weight_and_bias(layer)
    names = {id(parameter): name for name, parameter in layer.named_parameters()}
    given = {names[id(weight)]: theta[:, :-1].reshape(-1, *weight.shape[1:]), names[id(bias)]: theta[:, -1]}
    z: Tensor = functional_call(layer, given, (x,))
    return z


def as_samples(layer: nn.Module, z: Tensor) -> Tensor:
    """Return what a layer receives or gives with one axis of samples in front: tokens (B, T, ..) as (B * T, ..)."""
    return z.flatten(0, -2) if weight_and_bias(layer)[0].dim() == 2 else z


def units_of(layer: nn.Module) -> Tensor:
    """Return [W, b], of shape (m, n + 1), detached."""
    weight, bias = weight_and_bias(layer)
    return torch.cat([weight.detach().flatten(1), bias.detach().unsqueeze(1)], dim=1)


def entries(layer: nn.Module) -> int:
    """Return n, the number of weights of a unit."""
    return weight_and_bias(layer)[0][0].numel()


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return W, one row for each unit, and b (m,) of a layer."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight, bias
