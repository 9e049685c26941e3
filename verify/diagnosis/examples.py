"""Small models to try the diagnosis on: ``affdiv diagnose verify.diagnosis.examples:digits``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verify.diagnosis.batch import Loss


def digits() -> tuple[nn.Module, tuple[Tensor, Tensor], Loss]:
    """Return a small convolutional network, 64 images of digits with their classes, and cross-entropy."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images[:64], dtype=torch.float32).unsqueeze(1) / 16
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 4 * 4, 10),
    )
    return model, (images, torch.tensor(data.target[:64])), nn.functional.cross_entropy
