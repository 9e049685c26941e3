"""Images from a folder: the CIFAR-10 or CIFAR-100 binary release, Parquet in the Hugging Face layout, or image files.

    CIFAR binary   data_batch_*.bin and test_batch.bin, or train.bin and test.bin; one class byte per image (CIFAR-100
                   has two, of which the second is used), then 3 x 32 x 32 bytes
    Parquet        train*.parquet and test*.parquet with a column img or image of {bytes: JPEG or PNG} and a column
                   label or fine_label of whole numbers below 100,000
    image files    a sub-folder for each class, see ``image_folder``

A tenth of the training images, drawn by the split's seed, is the validation part. Every channel is standardised by its
mean and standard deviation over training and validation images, so that the splits of all seeds share one tensor; test
images are not used for this. The data is cached until the files change. Not supported: images of different sizes,
pickled releases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from derive.errors import UsageError
from verify.training.dataset import Dataset, Split
from verify.training.image_folder import held_out, is_image_folder, read_image_folder
from verify.training.pixels import Images, decoded, demand_classes, demand_room, joined

VALIDATION_SHARE = 0.1
MOST_FILES = 2_000_000  # most files in a folder of images
_CIFAR = 3 * 32 * 32
_CIFAR_LABELS = {1: (10,), 2: (20, 100)}  # number of classes of each label byte, by bytes per image
_MOST_AT_ONCE, _ROOM = 1024, 2**31  # rows of Parquet read at once, and bytes that they may unpack to
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("img", "image"), ("label", "fine_label")


def load_images(folder: Path, seed: int, dtype: torch.dtype) -> Dataset:
    """Return the images of a folder, flattened channel by channel: x of shape (images, channels * height * width).

    Raises:
        UsageError: the folder has no known layout, or files are damaged; the text names the file and the fix.
    """
    name, learn, test, whole = _read(folder, seed, _stamp(folder))
    if (learn.pixels.shape[1], learn.size) != (test.pixels.shape[1], test.size):
        raise UsageError(f"{folder}: training and test images differ in shape; give a folder with a single data set")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(learn.classes))
    held = max(1, round(VALIDATION_SHARE * len(order)))
    if len(order) < 2 or len(test.classes) == 0:
        raise UsageError(f"{folder}: {len(order)} training and {len(test.classes)} test images are too few to train on")
    both, tested = _standardised(learn, test, dtype)
    classes = int(max(part.classes.max() for part in (learn, test))) + 1
    train, validation = (replace(both, rows=torch.from_numpy(rows)) for rows in (order[held:], order[:held]))
    return Dataset(name, classes, train, validation, tested, whole, (learn.pixels.shape[1], *learn.size))


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of the folder's files, which change when a file does."""
    found: list[tuple[str, int, int]] = []
    for depth in ("*", "*/*", "*/*/*"):
        for path in folder.glob(depth):
            stat = path.lstat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
            if len(found) > MOST_FILES:
                raise UsageError(f"{folder}: it contains more than {MOST_FILES} files; give a folder of images only")
        if any(name.endswith((".bin", ".parquet")) for name, *_ in found):
            break
    return tuple(sorted(found))


def _read(folder: Path, seed: int, stamp: object) -> tuple[str, Images, Images, str]:
    """Return the data set's name, its training images, its test images and the digest of all."""
    name, *parts = _content(folder, stamp)
    digest = _digest(tuple(parts))
    return (name, *(parts if len(parts) == 2 else held_out(parts[0], seed)), digest)


@lru_cache(maxsize=1)
def _content(folder: Path, stamp: object) -> tuple[str, Images, Images] | tuple[str, Images]:
    """Return the data set's name, its training and its test images, or all images if there is no division."""
    for name, learn, test, labels in (
        ("cifar10", "data_batch_*.bin", "test_batch.bin", 1),
        ("cifar100", "train.bin", "test.bin", 2),
    ):
        if (folder / test).is_file():
            return name, _cifar(folder, learn, labels), _cifar(folder, test, labels)
    if list(folder.glob("*.parquet")):
        return "parquet-images", _parquet(folder, "train*.parquet"), _parquet(folder, "test*.parquet")
    if is_image_folder(folder):
        return "image-folder", *read_image_folder(folder)
    raise UsageError(
        f"{str(folder)!r} holds no data of a known layout; give the folder of a CIFAR binary release (test_batch.bin "
        "or test.bin), one with train*.parquet and test*.parquet, or one with a sub-folder of PNG or JPEG files for "
        "each class"
    )


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise UsageError(f"{str(folder)!r} holds no {pattern}; put the missing file beside the others")
    return files


def _cifar(folder: Path, pattern: str, labels: int) -> Images:
    rows = []
    for path in _files(folder, pattern):
        content = np.fromfile(path, dtype=np.uint8)
        if len(content) == 0 or len(content) % (labels + _CIFAR):
            raise UsageError(f"{path}: {len(content)} bytes are not a whole number of images; download the file again")
        rows.append(content.reshape(-1, labels + _CIFAR))
        for byte, classes in enumerate(_CIFAR_LABELS[labels]):
            largest = int(rows[-1][:, byte].max())
            if largest >= classes:
                raise UsageError(
                    f"{path}: class {largest} of {classes}: this is not a CIFAR binary file; download it again"
                )
    table = np.concatenate(rows)
    return Images(table[:, labels:].reshape(len(table), 3, -1), table[:, labels - 1].astype(np.int64), (32, 32))


def _parquet(folder: Path, pattern: str) -> Images:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("reading Parquet needs pyarrow and pillow: pip install 'affine-divergence[data]'") from None
    pixels, classes = [], []
    for path in _files(folder, pattern):
        try:
            found, labels = _rows(path, parquet.ParquetFile(path))
        except (pyarrow.ArrowException, OSError) as problem:
            raise UsageError(f"{path}: not a readable Parquet file ({problem}); download it again") from None
        pixels += found
        classes += labels
    return joined(f"{str(folder)!r}: the images of {pattern}", pixels, classes)


def _rows(path: Path, file: Any) -> tuple[list[np.ndarray], list[int]]:
    """Return images and classes of a file, read a few rows at a time, since one stored value may fill many rows."""
    count = file.metadata.num_rows
    names = [_column(path, file.schema_arrow.names, known) for known in (_IMAGE_COLUMNS, _LABEL_COLUMNS)]
    unpacked = max((file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups)), default=0)
    pixels: list[np.ndarray] = []
    classes: list[int] = []
    for batch in file.iter_batches(min(_MOST_AT_ONCE, max(1, _ROOM // max(unpacked, 1))), columns=names):
        images, labels = (batch.column(name).to_pylist() for name in names)
        demand_classes(str(path), labels)
        for image in images:
            content = image.get("bytes") if isinstance(image, dict) else image
            pixels.append(decoded(f"{path}: image {len(pixels)}", content))
            if len(pixels) == 1:
                demand_room(path, count, pixels[0])
        classes += labels
    return pixels, classes


def _column(path: Path, there: Sequence[str], names: tuple[str, ...]) -> str:
    for name in names:
        if name in there:
            return name
    raise UsageError(
        f"{path}: no column {' or '.join(names)} (there are: {', '.join(there)[:200]}); rename the column that holds "
        "them"
    )


def _statistics(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, shape (channels,), from exact counts of the 256 values."""
    values = np.arange(256.0)
    counts = np.stack([np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(pixels.shape[1])])
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    deviation = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0.0))
    return mean, np.where(deviation > 0, deviation, 1.0)


@lru_cache(maxsize=4)
def _standardised(learn: Images, test: Images, dtype: torch.dtype) -> tuple[Split, Split]:
    """Return both parts standardised by the statistics of the first."""
    mean, deviation = _statistics(learn.pixels)
    return _split(learn, mean, deviation, dtype), _split(test, mean, deviation, dtype)


def _split(part: Images, mean: np.ndarray, deviation: np.ndarray, dtype: torch.dtype) -> Split:
    x = torch.from_numpy(part.pixels).to(dtype)
    x.sub_(torch.from_numpy(mean).to(dtype)[:, None]).div_(torch.from_numpy(deviation).to(dtype)[:, None])
    return Split(x.flatten(1), torch.from_numpy(part.classes))


@lru_cache(maxsize=4)
def _digest(parts: tuple[Images, ...]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part.pixels.shape).encode())
        digest.update(np.ascontiguousarray(part.pixels).data)
        digest.update(np.ascontiguousarray(part.classes).data)
    return digest.hexdigest()
