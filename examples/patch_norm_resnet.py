"""Train a small ResNet on digits: convolution and BatchNorm, and PatchNorm instead of both.

    python examples/patch_norm_resnet.py            about a minute on two cores
    python examples/patch_norm_resnet.py --quick    seconds

PatchNorm divides each position of a convolution by the root of its own self factor. It has no running statistics, so a
sample's output does not depend on its batch. With few images and one seed, the accuracies decide nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import affine_divergence as ad

Convolution = Callable[[int, int, int], nn.Module]


def with_batch_norm(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return a convolution followed by BatchNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs))


def with_patch_norm(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return a convolution with the same self factor at every position."""
    return ad.PatchNormConv2d(inputs, outputs, 3, stride, padding=1, form="affine-like")


class Residual(nn.Module):
    """Two convolutions and a skip connection around them."""

    def __init__(self, convolution: Convolution, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolution(inputs, outputs, stride), convolution(outputs, outputs, 1)
        same = inputs == outputs and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, outputs, height / stride, width / stride)."""
        return functional.relu(self.around(x) + self.second(functional.relu(self.first(x))))


def resnet(convolution: Convolution) -> nn.Module:
    """Return the network: images (batch, 1, 8, 8) in, logits of ten classes out."""
    return nn.Sequential(
        convolution(1, 16, 1),
        nn.ReLU(),
        Residual(convolution, 16, 16, 1),
        Residual(convolution, 16, 32, 2),
        Residual(convolution, 32, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def train(convolution: Convolution, rate: float, epochs: int, samples: int) -> tuple[float, float]:
    """Train one network and return its accuracy on images that it did not see, and the first layer's spread.

    The spread is the largest over the smallest self factor over the positions of the first convolution.
    """
    torch.manual_seed(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    classes, order = torch.tensor(data.target), torch.randperm(len(images))
    known, unknown = order[:samples], order[-400:]
    model = resnet(convolution)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for _ in range(epochs):
        for chosen in known[torch.randperm(len(known))].split(32):
            loss = functional.cross_entropy(model(images[chosen]), classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d | ad.PatchNormConv2d))
    with torch.no_grad():
        right = (model(images[unknown]).argmax(-1) == classes[unknown]).float().mean().item()
        factors = ad.self_factor(first, images[unknown[:32]])
    return right, (factors.max() / factors.min()).item()


def main() -> None:
    """Train both networks at each rate and print the best of each."""
    parser = argparse.ArgumentParser(description="Train a small ResNet with BatchNorm and with PatchNorm.")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    quick = parser.parse_args().quick
    epochs, samples, rates = (1, 64, (0.03,)) if quick else (6, 1200, (0.01, 0.03, 0.1))
    for name, convolution in (("BatchNorm", with_batch_norm), ("PatchNorm", with_patch_norm)):
        found = [(*train(convolution, rate, epochs, samples), rate) for rate in rates]
        right, spread, rate = max(found)
        print(f"{name}: {right:.1%} right at rate {rate:g}; largest / smallest self factor, first layer: {spread:.2f}")


if __name__ == "__main__":
    main()
