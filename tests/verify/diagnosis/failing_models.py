"""Twenty failures of training as small models, and four healthy trainings.

Each function draws from torch's generator and returns a ``Case``: arguments of ``verify.diagnose`` and the expected
finding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Case:
    """Model, batch, loss, and the expected first finding: its kind and, if it has them, layer and index."""

    model: nn.Module
    batch: Any
    loss: Callable[..., Any] | None
    kind: str = ""
    layer: str | None = None
    index: Any = None
    settings: dict[str, Any] = field(default_factory=dict)


def mlp(inputs=10, width=32, outputs=1, depth=2, activation=nn.ReLU):
    layers = [nn.Linear(inputs, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def regression(rows=32, inputs=10):
    x = torch.randn(rows, inputs)
    return x, x[:, :1] - 0.5 * x[:, 1:2]


# The ten of the collection


def all_features_large():
    x, y = regression()
    return Case(mlp(), (1e6 * x, y), F.mse_loss, "unscaled-input", "0")


def one_feature_large():
    x, y = regression()
    column = int(torch.randint(0, 10, ()))
    x[:, column] *= 1e3
    return Case(mlp(), (x, y), F.mse_loss, "outlying-feature", "0", column)


def one_sample_large():
    x, y = regression()
    row = int(torch.randint(0, 32, ()))
    x[row] *= 1e3
    return Case(mlp(), (x, y), F.mse_loss, "outlying-sample", "0", row)


class HalfBlock(nn.Module):
    """A feed-forward block whose hidden products overflow half precision, followed by a norm."""

    def __init__(self):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(16, 64), nn.Linear(16, 64), nn.Linear(64, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.norm(x + self.down(self.up(x) * self.gate(x))))


def half_precision_overflow():
    model = HalfBlock().half()
    with torch.no_grad():
        model.up.weight.mul_(300), model.gate.weight.mul_(300), model.down.weight.mul_(50)
    x = 2 * torch.randn(8, 16).half()
    return Case(model, (x, torch.randint(0, 2, (8,))), lambda o, y: F.cross_entropy(o.float(), y), "non-finite-forward")


def root_of_zero():
    x, _ = regression()

    def loss(o):
        return o.mean() + torch.sqrt((o - o.detach()).square().sum())

    return Case(mlp(), x, loss, "non-finite-gradient")


def feature_without_range():
    x, y = regression()
    column = int(torch.randint(0, 10, ()))
    x[:, column] = 3.0
    x = (x - x.amin(0)) / (x.amax(0) - x.amin(0))
    return Case(mlp(), (x, y), F.mse_loss, "non-finite-input", None, column)


def broadcast_loss():
    x, y = regression()
    return Case(mlp(), (x, y.squeeze(1)), lambda o, y: ((o - y) ** 2).mean(), "broadcast-loss")


class Attention(nn.Module):
    """One head of attention with a choice of scale, on embeddings."""

    def __init__(self, width, scale):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        for layer in (self.q, self.k):
            nn.init.normal_(layer.weight, std=width**-0.5)
        self.scale = scale

    def forward(self, x):
        scores = self.q(x) @ self.k(x).mT * self.scale
        return self.o(scores.softmax(-1) @ self.v(x))


class Tagger(nn.Module):
    """Embedding, norm, attention, head."""

    def __init__(self, scale, width=64):
        super().__init__()
        self.table, self.norm = nn.Embedding(20, width), nn.LayerNorm(width)
        self.attention, self.head = Attention(width, scale), nn.Linear(width, 20)

    def forward(self, t):
        x = self.table(t)
        return self.head(x + self.attention(self.norm(x)))


def by_token(o, t):
    return F.cross_entropy(o.flatten(0, 1), t.flatten())


def scores_without_scale():
    t = torch.randint(0, 20, (8, 16))
    return Case(Tagger(1.0), (t, t.roll(-1, 1)), by_token, "saturated-softmax", "attention")


class Residual(nn.Module):
    """Blocks whose outputs are added to their inputs."""

    def __init__(self, width=32, depth=8, norm=False):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth))
        for block in self.blocks:
            nn.init.kaiming_normal_(block[0].weight)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(depth + 1))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        for block, norm in zip(self.blocks, self.norms, strict=False):
            x = x + block(norm(x))
        return self.head(self.norms[-1](x))


def residual_stream_grows():
    return Case(
        Residual(), (torch.randn(32, 32), torch.randint(0, 4, (32,))), F.cross_entropy, "growing-activations",
        settings={"rate": 1e-3},
    )  # fmt: skip


def padding_counted():
    t = torch.randint(1, 20, (16, 24))
    for row, length in enumerate(torch.randint(4, 14, (16,))):
        t[row, length:] = 0
    return Case(Tagger(1 / 8), (t, t.roll(-1, 1)), by_token, "duplicate-samples")


# Ten more


def images_of_bytes():
    x, y = torch.randint(0, 256, (16, 3, 12, 12)).float(), torch.randint(0, 4, (16,))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    return Case(model, (x, y), F.cross_entropy, "unscaled-input", "0")


def one_target_large():
    x, y = regression()
    row = int(torch.randint(0, 32, ()))
    y[row] += 1e4
    return Case(mlp(), (x, y), F.mse_loss, "outlying-sample", None, row)


def rows_repeated():
    x, y = regression()
    x[8:], y[8:] = x[8], y[8]
    return Case(mlp(), (x, y), F.mse_loss, "duplicate-samples")


def logarithm_masked_too_late():
    x, y = regression()

    def loss(o, y):
        p = (o - o.detach()).abs()
        return (o - y).square().mean() + torch.where(p > 0, p.log(), torch.zeros_like(p)).mean()

    return Case(mlp(), (x, y), loss, "non-finite-gradient")


def tanh_saturates():
    model = mlp(activation=nn.Tanh, depth=3)
    with torch.no_grad():
        for layer in model[2::2]:
            layer.weight.mul_(20)
    return Case(model, regression(), F.mse_loss, "saturated-units", settings={"rate": 1e-4})


def units_are_dead():
    model = mlp(depth=3)
    with torch.no_grad():
        model[2].bias.fill_(-4.0)
    return Case(model, regression(), F.mse_loss, "dead-units")


def sigmoids_without_end():
    return Case(mlp(depth=8, activation=nn.Sigmoid), regression(), F.mse_loss, "vanishing-gradients")


def rate_too_high():
    x, y = torch.randn(64, 10), torch.randint(0, 3, (64,))
    return Case(mlp(outputs=3), (x, y), F.cross_entropy, "step-too-large", settings={"rate": 50.0})


def one_layer_loud():
    model = mlp(depth=4)
    with torch.no_grad():
        model[4].weight.mul_(30)
    return Case(model, regression(), F.mse_loss, "dominating-layer", "4", settings={"rate": 1e-6})


def activations_explode():
    model = mlp(depth=8)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(5)
    return Case(model, regression(), F.mse_loss, "growing-activations", settings={"rate": 1e-9})


# Healthy trainings


def digits_network():
    from verify.diagnosis.examples import digits

    model, batch, loss = digits()
    for layer in model:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return Case(model, batch, loss)


def standardised_regression():
    return Case(mlp(), regression(64), F.mse_loss)


def small_transformer():
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(30, 32), body, nn.LayerNorm(32), nn.Linear(32, 30))
    t = torch.randint(0, 30, (8, 16))
    return Case(model, (t, t.roll(-1, 1)), by_token)


def residual_convolutions():
    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
            self.m, self.n = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x):
            return torch.relu(x + self.n(self.b(torch.relu(self.m(self.a(x))))))

    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *(Block(16) for _ in range(4)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    return Case(model, (torch.randn(16, 3, 12, 12), torch.randint(0, 5, (16,))), F.cross_entropy)


FAILURES = [
    all_features_large, one_feature_large, one_sample_large, half_precision_overflow, root_of_zero,
    feature_without_range, broadcast_loss, scores_without_scale, residual_stream_grows, padding_counted,
    images_of_bytes, one_target_large, rows_repeated, logarithm_masked_too_late, tanh_saturates, units_are_dead,
    sigmoids_without_end, rate_too_high, one_layer_loud, activations_explode,
]  # fmt: skip
HEALTHY = [digits_network, standardised_regression, small_transformer, residual_convolutions]
