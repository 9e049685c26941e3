"""Whole models for ``affdiv bench --suite``: a ResNet-18 and a transformer, with or without normalisers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


def no_norm(features: int) -> nn.Module:
    """Return the identity, used in place of a normaliser of ``features`` features."""
    return nn.Identity()


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, norm: Norm) -> nn.Sequential:
    bias = norm is no_norm
    made = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(made, norm(outputs))


class _Block(nn.Module):
    """The basic block of a ResNet: two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        first = _convolution(inputs, outputs, 3, stride, norm)
        self.body = nn.Sequential(first, nn.ReLU(), _convolution(outputs, outputs, 3, 1, norm))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the images (B, outputs, h, w)."""
        z: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return z


def resnet18(norm: Norm, classes: int = 100) -> nn.Module:
    """Return a ResNet-18 (He et al. 2016) for images (B, 3, h, w); without normalisers its convolutions have biases."""
    layers: list[nn.Module] = [_convolution(3, 64, 7, 2, norm), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for outputs, stride in _STAGES:
        layers += [_Block(inputs, outputs, stride, norm), _Block(outputs, outputs, 1, norm)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class _Encoder(nn.Module):
    """Attention, then two linear layers, each with a skip connection and a normaliser in front (pre-norm)."""

    def __init__(self, features: int, heads: int, norm: Norm) -> None:
        super().__init__()
        self.before_attention, self.before_rest = norm(features), norm(features)
        self.attention = nn.MultiheadAttention(features, heads, batch_first=True)
        self.rest = nn.Sequential(nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, T, features)."""
        y = self.before_attention(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        z: Tensor = x + self.rest(self.before_rest(x))
        return z


def transformer(norm: Norm, depth: int = 6, features: int = 256, heads: int = 8) -> nn.Module:
    """Return a pre-norm transformer for tokens (B, T, features)."""
    return nn.Sequential(*(_Encoder(features, heads, norm) for _ in range(depth)), norm(features))
