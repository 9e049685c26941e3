"""Decoded images and their classes, independent of their source."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from derive.errors import UsageError

LARGEST_SIDE = 512
LARGEST_IMAGE = 2**24  # most bytes of an encoded image, in a file or a table
LARGEST_DATA = 2**33  # most bytes of decoded pixels in memory
MOST_IMAGES = 10_000_000
MOST_CLASSES = 100_000


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels of shape (images, channels, height * width) in 0 ... 255, classes of shape (images,), height and width."""

    pixels: np.ndarray
    classes: np.ndarray
    size: tuple[int, int]

    def of(self, rows: np.ndarray) -> Images:
        """Return the images with these indices, in the given order."""
        return Images(self.pixels[rows], self.classes[rows], self.size)


def decoded(name: str, content: object) -> np.ndarray:
    """Return the pixels of one image, shape (channels, height, width), with 1 channel if it is grey, else 3.

    Raises:
        UsageError: the bytes are not a complete JPEG or PNG image, or the image is too large.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UsageError("reading images needs pillow: pip install 'affine-divergence[data]'") from None

    if not isinstance(content, bytes):
        raise UsageError(
            f"{name} cannot be read: it is {str(content)[:60]!r}, not bytes; give the bytes of a JPEG or PNG image"
        )
    if len(content) > LARGEST_IMAGE:
        raise UsageError(f"{name}: {len(content)} bytes are too many for an image; give at most {LARGEST_IMAGE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about many pixels, which are rejected here
            with Image.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as opened:
                if max(opened.size) > LARGEST_SIDE:
                    raise ValueError(f"{opened.size[0]} x {opened.size[1]} pixels are too many")
                values = np.asarray(opened.convert("L" if opened.mode == "L" else "RGB"))
    except UnidentifiedImageError:
        raise UsageError(f"{name} cannot be read (it is not an image); give the bytes of a JPEG or PNG image") from None
    except (OSError, ValueError, SyntaxError, OverflowError, Image.DecompressionBombError) as problem:
        raise UsageError(f"{name} cannot be read ({problem}); give the bytes of a JPEG or PNG image") from None
    return values.reshape(*values.shape[:2], -1).transpose(2, 0, 1)


def content_of(file: Path) -> bytes:
    """Return the bytes of an image file; UsageError, before reading, if it is too large."""
    size = file.stat().st_size
    if size > LARGEST_IMAGE:
        raise UsageError(f"{file}: {size} bytes are too many for an image; give at most {LARGEST_IMAGE}")
    return file.read_bytes()


def joined(where: str, pixels: Sequence[np.ndarray], classes: Sequence[int]) -> Images:
    """Return images of one shape as one array; UsageError if there are none or their shapes differ."""
    if not pixels or len({image.shape for image in pixels}) != 1:
        raise UsageError(f"{where} are missing or differ in shape; give images of one size")
    stacked = np.stack(pixels)
    return Images(stacked.reshape(*stacked.shape[:2], -1), np.array(classes, dtype=np.int64), stacked.shape[2:])


def demand_classes(where: str, classes: Sequence[object]) -> None:
    """Raise UsageError unless all classes are whole numbers below the limit."""
    for label in classes:
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < MOST_CLASSES:
            raise UsageError(
                f"{where}: the label {str(label)[:60]!r} is not a class; give whole numbers from 0, "
                f"below {MOST_CLASSES}"
            )


def demand_room(where: Path, count: int, first: np.ndarray) -> None:
    """Raise UsageError if ``count`` images like the first exceed the limits."""
    if count > MOST_IMAGES:
        raise UsageError(f"{where}: {count} images are too many, at most {MOST_IMAGES} are read; give fewer")
    if count * first.nbytes > LARGEST_DATA:
        raise UsageError(
            f"{where}: {count} images of {first.nbytes} bytes are more than {LARGEST_DATA} bytes; give fewer or smaller"
        )
