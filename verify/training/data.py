"""The data a trial trains on: three fixed parts, standardised by the training part alone.

Not supported: any data set other than scikit-learn's digits (1,797 images of 8 x 8 pixels, embedded in scikit-learn).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from derive.errors import UsageError

TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2


@dataclass(frozen=True)
class Split:
    """Samples ``x`` of shape (samples, features) and their classes ``y`` of shape (samples,)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def first(self, count: int) -> Split:
        """Return the first ``count`` samples, or all where there are fewer."""
        return Split(self.x[:count], self.y[:count])

    def to(self, device: str) -> Split:
        """Return the same samples on a device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named data set in three disjoint parts, with the digest of exactly these numbers."""

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    digest: str

    @property
    def features(self) -> int:
        """The number of entries of one sample."""
        return self.train.x.shape[1]

    def to(self, device: str) -> Dataset:
        """Return the same data on a device."""
        parts = (self.train.to(device), self.validation.to(device), self.test.to(device))
        return Dataset(self.name, self.classes, *parts, self.digest)


def load(name: str, seed: int, dtype: torch.dtype = torch.float64) -> Dataset:
    """Return the named data set, split by ``seed``; raise ``UsageError`` for a name that is not known."""
    if name != "digits":
        raise UsageError(f"data set {name!r} is not known; the one that is built in is 'digits'")
    return digits(seed, dtype)


def digits(seed: int, dtype: torch.dtype = torch.float64) -> Dataset:
    """Return scikit-learn's digits: 64 features, 10 classes, split 60/20/20 by a permutation drawn from ``seed``.

    Every feature is centred and scaled by its mean and standard deviation over the training part; a pixel that is
    constant there is centred only.
    """
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(classes))
    first, second = _ends(len(classes))
    parts = np.split(order, [first, second])
    mean, scale = _statistics(images[parts[0]])
    splits = [Split(torch.tensor((images[p] - mean) / scale, dtype=dtype), torch.tensor(classes[p])) for p in parts]
    train, validation, test = splits
    return Dataset("digits", int(classes.max()) + 1, train, validation, test, _digest(splits))


def _ends(count: int) -> tuple[int, int]:
    return round(TRAIN_SHARE * count), round((TRAIN_SHARE + VALIDATION_SHARE) * count)


def _statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    deviation = images.std(axis=0)
    return images.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


def _digest(splits: list[Split]) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.x.numpy().tobytes())
        digest.update(split.y.numpy().tobytes())
    return digest.hexdigest()
