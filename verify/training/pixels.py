"""Decoded images and their classes, whatever they were read from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from derive.errors import UsageError

LARGEST_SIDE = 512
LARGEST_DATA = 2**33  # bytes of decoded pixels that are held at once


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels of shape (images, channels, height * width) in 0 ... 255, classes of shape (images,), height and width."""

    pixels: np.ndarray
    classes: np.ndarray
    size: tuple[int, int]

    def of(self, rows: np.ndarray) -> Images:
        """Return the images of these numbers, in their order."""
        return Images(self.pixels[rows], self.classes[rows], self.size)


def decoded(name: str, content: object) -> np.ndarray:
    """Return the pixels of one image, of shape (channels, height, width); 1 channel if it is grey, else 3.

    Raises:
        UsageError: bytes that are no JPEG or PNG, or not all of one, or an image that is too large.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UsageError("reading images needs pillow: pip install 'affine-divergence[data]'") from None

    if not isinstance(content, bytes):
        raise UsageError(f"{name} cannot be read (it is {content!r}, no bytes); give JPEG or PNG in bytes")
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as opened:
            if max(opened.size) > LARGEST_SIDE:
                raise ValueError(f"{opened.size[0]} x {opened.size[1]} pixels are too many")
            values = np.asarray(opened.convert("L" if opened.mode == "L" else "RGB"))
    except UnidentifiedImageError:
        raise UsageError(f"{name} cannot be read (it is no such image); give JPEG or PNG in bytes") from None
    except (OSError, ValueError, SyntaxError) as problem:
        raise UsageError(f"{name} cannot be read ({problem}); give JPEG or PNG in bytes") from None
    return values.reshape(*values.shape[:2], -1).transpose(2, 0, 1)


def joined(where: str, pixels: Sequence[np.ndarray], classes: Sequence[int]) -> Images:
    """Return images of one shape as one; UsageError where there are none or their shapes differ."""
    if not pixels or len({image.shape for image in pixels}) != 1:
        raise UsageError(f"{where} are none or differ in shape; bring them to one size")
    stacked = np.stack(pixels)
    return Images(stacked.reshape(*stacked.shape[:2], -1), np.array(classes, dtype=np.int64), stacked.shape[2:])


def demand_room(where: Path, count: int, first: np.ndarray) -> None:
    """Raise UsageError where so many images like the first are more than can be held."""
    if count * first.nbytes > LARGEST_DATA:
        raise UsageError(
            f"{where}: {count} images of {first.nbytes} bytes are more than {LARGEST_DATA} bytes; give fewer or smaller"
        )
