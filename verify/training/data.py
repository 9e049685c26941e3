"""The data a trial trains on: three fixed parts, standardised by the training part alone.

Built in are scikit-learn's digits (1,797 images of 8 x 8 pixels, embedded in scikit-learn); a path names a folder of
images, see ``image_files``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from derive.errors import UsageError
from verify.training.dataset import Dataset, Split
from verify.training.image_files import load_images

__all__ = ["Dataset", "Split", "digits", "load"]

TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2


def load(name: str, seed: int, dtype: torch.dtype = torch.float64) -> Dataset:
    """Return ``digits`` or the images of a folder, split by ``seed``; UsageError for what is neither."""
    if name == "digits":
        return digits(seed, dtype)
    folder = Path(name)
    if folder.is_dir():
        return load_images(folder, seed, dtype)
    if folder.exists():
        raise UsageError(f"data {name!r} is a file; images come from a folder, name the folder that holds it")
    raise UsageError(f"data set {name!r} is not known; the one that is built in is 'digits', others are folders")


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
    return Dataset("digits", int(classes.max()) + 1, train, validation, test, _digest(splits), (1, 8, 8))


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
