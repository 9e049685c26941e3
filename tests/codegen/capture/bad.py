"""Factories and modules that cannot be captured, each for one reason."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_calls = 0
NOT_A_FUNCTION = 3


class Of(nn.Module):
    """A linear layer with something done before or after."""

    def __init__(self, n: int, m: int, step: Any) -> None:
        super().__init__()
        self.map, self.step = nn.Linear(n, m), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.map(x))


def raises(n: int) -> Any:
    raise KeyError("width")


def returns_a_module(n: int) -> Any:
    return nn.Linear(n, n)


def returns_text(n: int) -> Any:
    return nn.Linear(n, n), "an example"


def takes_text(n: int, kind: str) -> Any:
    return nn.Linear(n, n), torch.randn(2, n)


def lazy(n: int) -> Any:
    return nn.LazyLinear(n), torch.randn(2, n)


def without_parameters(n: int) -> Any:
    return nn.ReLU(), torch.randn(2, n)


def frozen(n: int) -> Any:
    return nn.Linear(n, n).requires_grad_(False), torch.randn(2, n)


def counts_calls(n: int) -> Any:
    global _calls
    _calls += 1
    scale = _calls
    return Of(n, n, lambda z: z * scale), torch.randn(2, n)


def draws(n: int) -> Any:
    scale = random.random()
    return Of(n, n, lambda z: z * scale), torch.randn(2, n)


def decides_by_values(n: int) -> Any:
    return Of(n, n, lambda z: z * 2 if z.sum() > 0 else z), torch.randn(2, n)


def reads_a_number(n: int) -> Any:
    return Of(n, n, lambda z: z * z.sum().item()), torch.randn(2, n)


def loops(n: int) -> Any:
    def step(z: Tensor) -> Tensor:
        for k in range(n):
            z = z + k
        return z

    return Of(n, n, step), torch.randn(2, n)


def drops(n: int) -> Any:
    return Of(n, n, nn.Dropout(0.5)), torch.randn(2, n)


def noise(n: int) -> Any:
    return Of(n, n, lambda z: z + torch.randn_like(z)), torch.randn(2, n)


def unknown(n: int) -> Any:
    return Of(n, n, torch.special.i0), torch.randn(2, n)


def does_not_fit(n: int) -> Any:
    return Of(n, 2**n, lambda z: z), torch.randn(2, n)


def odd_scale(n: int) -> Any:
    return Of(n, n, lambda z: z * 1.1**n), torch.randn(2, n)


def overwrites(n: int) -> Any:
    def step(z: Tensor) -> Tensor:
        half = z[:, :1]
        half.mul_(2)
        return z

    return Of(n, n, step), torch.randn(2, n)


def sorts(n: int) -> Any:
    return Of(n, n, lambda z: z.sort(-1).values), torch.randn(2, n)


def picks(n: int) -> Any:
    return Of(n, n, lambda z: z[z > 0].sum()), torch.randn(2, n)


def no_output(n: int) -> Any:
    return Of(n, n, lambda z: z.argmax(-1)), torch.randn(2, n)


def wrong_width(n: int) -> Any:
    return nn.Linear(n, n), torch.randn(2, n + 1)


def pads(n: int, m: int) -> Any:
    return nn.Embedding(n, m, padding_idx=0), torch.randint(0, 2, (3, 4))


def remembers(n: int) -> Any:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(n, n)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(1.0)
            return self.map(x) * self.seen

    return Counting(), torch.randn(2, n)


class Counted(Of):
    """A layer that is scaled by the number of its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


def counts_its_calls(n: int) -> Any:
    return Counted(n, n, torch.tanh), torch.randn(2, n)


def changes_its_weight(n: int) -> Any:
    layer = Of(n, n, lambda z: z)

    def step(z: Tensor) -> Tensor:
        with torch.no_grad():
            layer.map.weight.mul_(0.5)
        return z

    layer.step = step
    return layer, torch.randn(2, n)


def empty_example(n: int) -> Any:
    return nn.Linear(n, n), torch.randn(0, n)


async def waits(n: int) -> Any:
    return nn.Linear(n, n), torch.randn(2, n)


def assigns(n: int) -> Any:
    def step(z: Tensor) -> Tensor:
        z[:, 0] = 0
        return z

    return Of(n, n, step), torch.randn(2, n)


class TwoInputs(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.map = nn.Linear(n, n)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.map(x) + y


def inplace_activation(n: int) -> Any:
    """Allowed: no other tensor shares the overwritten memory."""
    return Of(n, n, lambda z: F.relu(z, inplace=True)), torch.randn(2, n)
