"""Fused normalisers of other libraries (peers): measured if installed, none of them a dependency.

A linear layer of torch's follows each normaliser, unless the library fuses the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from verify.bench.shapes import Shape


@dataclass(frozen=True)
class Peer:
    """A module of another library: its name in tables, the package it needs, and how it is built."""

    name: str
    package: str
    build: Callable[[Shape], nn.Module]


class _Before(nn.Module):
    """A normalising function of the input and a gain of ones, followed by a linear layer."""

    def __init__(self, shape: Shape, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(shape.inputs))
        self.linear = nn.Linear(shape.inputs, shape.outputs)
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.linear(self._function(x, self.gain))
        return z


def _liger(name: str) -> Callable[[Shape], nn.Module]:
    def build(shape: Shape) -> nn.Module:
        norm: Any = getattr(importlib.import_module("liger_kernel.transformers"), name)
        return nn.Sequential(norm(shape.inputs), nn.Linear(shape.inputs, shape.outputs))

    return build


def _quack(shape: Shape) -> nn.Module:
    return _Before(shape, importlib.import_module("quack").rmsnorm)


def _transformer_engine(shape: Shape) -> nn.Module:
    layer: nn.Module = importlib.import_module("transformer_engine.pytorch").LayerNormLinear(
        shape.inputs, shape.outputs
    )
    return layer


PEERS = (
    Peer("Liger layer norm +", "liger_kernel", _liger("LigerLayerNorm")),
    Peer("Liger RMS norm +", "liger_kernel", _liger("LigerRMSNorm")),
    Peer("quack RMS norm +", "quack", _quack),
    Peer("TE LayerNormLinear", "transformer_engine", _transformer_engine),
)
