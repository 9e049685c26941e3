"""Load the data of a trial in three parts (training, validation, test), split by a seed and standardised.

Statistics for standardisation come from the training part alone. Built in are scikit-learn's digits (1,797 images of 8
x 8 pixels, included in scikit-learn) and a short text, the Declaration of Independence of 1776. A path names a folder
of images, see ``image_files``, or a text file, see ``text_files``.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

from derive.errors import UsageError
from verify.training.config import DATA
from verify.training.dataset import Dataset, Split
from verify.training.image_files import load_images
from verify.training.text_files import built_in_text, load_text

__all__ = ["Dataset", "Split", "digits", "load"]

TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2


def load(name: str, seed: int, dtype: torch.dtype = torch.float64, context: int = 0) -> Dataset:
    """Return a built-in data set, the images of a folder, or a text file, split by ``seed``.

    ``context`` is the length of a text's windows, 0 for models that do not read text. UsageError for an unknown name
    and for unusable data.
    """
    if name == "digits":
        return digits(seed, dtype)
    if name in DATA:
        return built_in_text(name, context, seed)
    path = Path(name)
    if path.is_dir():
        return load_images(path, seed, dtype)
    if path.is_file():
        return load_text(path, context, seed)
    raise UsageError(
        f"data set {name!r} is not known; built in are {', '.join(DATA)}, others are folders of images or text files"
    )


def digits(seed: int, dtype: torch.dtype = torch.float64) -> Dataset:
    """Return scikit-learn's digits: 64 features, 10 classes, split 60/20/20 by a permutation drawn from ``seed``.

    Every feature is centred and scaled by its mean and standard deviation over the training part; a pixel that is
    constant there is centred only.
    """
    images, classes = _read_digits()
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(classes))
    first, second = _ends(len(classes))
    parts = np.split(order, [first, second])
    mean, scale = _statistics(images[parts[0]])
    splits = [Split(torch.tensor((images[p] - mean) / scale, dtype=dtype), torch.tensor(classes[p])) for p in parts]
    train, validation, test = splits
    digest = hashlib.sha256(images.tobytes() + classes.tobytes()).hexdigest()
    return Dataset("digits", int(classes.max()) + 1, train, validation, test, digest, (1, 8, 8))


def _ends(count: int) -> tuple[int, int]:
    return round(TRAIN_SHARE * count), round((TRAIN_SHARE + VALIDATION_SHARE) * count)


def _statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    deviation = images.std(axis=0)
    return images.mean(axis=0), np.where(deviation > 0, deviation, 1.0)


@cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    return images, classes
