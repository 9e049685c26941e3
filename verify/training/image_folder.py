"""Images in a folder of classes: each sub-folder is a class with its JPEG or PNG files.

    folder/cat/*.png  folder/dog/*.png ..                  a tenth is the test part, drawn by the split's seed
    folder/train/cat/*.png ..  folder/test/cat/*.png ..    the given parts are used

Classes are numbered in the order of their names. Files whose name begins with a dot are ignored. Not supported:
sub-folders of classes, images of different sizes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from derive.errors import UsageError
from verify.training.pixels import Images, content_of, decoded, demand_room, joined

TEST_SHARE = 0.1
_ENDINGS = (".png", ".jpg", ".jpeg")
_PARTS = ("test", "train")


def is_image_folder(folder: Path) -> bool:
    """Return whether a folder has sub-folders that contain an image, at a depth of one or two."""
    return any(path.suffix.lower() in _ENDINGS for pattern in ("*/*", "*/*/*") for path in folder.glob(pattern))


def read_image_folder(folder: Path) -> tuple[Images] | tuple[Images, Images]:
    """Return training and test images, or all images if the folder does not divide them, see ``held_out``.

    Raises:
        UsageError: a class without images, an invalid or truncated image, images of several sizes, or test classes that
            the training part lacks.
    """
    if [path.name for path in _folders(folder)] == list(_PARTS):
        names = [path.name for path in _folders(folder / "train")]
        return _images(folder / "train", names), _images(folder / "test", names)
    return (_images(folder, [path.name for path in _folders(folder)]),)


@lru_cache(maxsize=4)
def held_out(whole: Images, seed: int) -> tuple[Images, Images]:
    """Return training and test images, divided by a seed."""
    order = np.random.Generator(np.random.PCG64([seed, 1])).permutation(len(whole.classes))
    held = round(TEST_SHARE * len(order))
    return whole.of(np.sort(order[held:])), whole.of(np.sort(order[:held]))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path, names: list[str]) -> Images:
    """Return the images of a folder whose sub-folders are the named classes."""
    found = [(file, names.index(path.name)) for path in _classes(folder, names) for file in _files(path)]
    pixels: list[np.ndarray] = []
    for file, _ in found:
        pixels.append(decoded(str(file), content_of(file)))
        if len(pixels) == 1:
            demand_room(folder, len(found), pixels[0])
        elif pixels[-1].shape != pixels[0].shape:
            raise UsageError(
                f"{file} has {_size(pixels[-1])} pixels (channels x height x width), the first image of {folder} "
                f"{_size(pixels[0])}; resize all to one size"
            )
    return joined(f"the images of {folder}", pixels, [number for _, number in found])


def _classes(folder: Path, names: list[str]) -> list[Path]:
    """Return the classes' folders; UsageError for anything else in the folder."""
    found = _folders(folder)
    for path in found:
        if path.name not in names:
            raise UsageError(f"{path}: the training images have no class {path.name!r}; remove it, or add it to them")
    loose = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in _ENDINGS]
    if loose:
        raise UsageError(f"{min(loose)} belongs to no class; move it into the sub-folder of its class")
    return found


def _files(folder: Path) -> list[Path]:
    """Return the images of a class; UsageError for other files."""
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in found:
        if not path.is_file() or path.suffix.lower() not in _ENDINGS:
            raise UsageError(
                f"{path} is not an image ({', '.join(_ENDINGS)}); a class may hold only images: move it away"
            )
    if not found:
        raise UsageError(f"{folder} contains no image; add the images of the class, or remove the folder")
    return found


def _size(image: np.ndarray) -> str:
    return " x ".join(map(str, image.shape))
