"""A text as data: windows of characters, with the next character of each position as its class.

The text is treated as a ring, cut open at a position drawn by the split's seed, and then divided into three disjoint
parts: 90 % training, 5 % validation, 5 % test. Each part is divided into windows that do not overlap. A character is
one code point. Not supported: texts larger than 1 GiB, encodings other than UTF-8.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from derive.errors import UsageError
from verify.training.dataset import Dataset, Split

LARGEST_TEXT = 2**30
TRAIN_SHARE, VALIDATION_SHARE = 0.90, 0.05
BUILT_IN = Path(__file__).parent / "texts"
_LAST_POINT = 0x10FFFF


def built_in_text(name: str, context: int, seed: int) -> Dataset:
    """Return a text shipped with the project."""
    return _dataset(name, BUILT_IN / f"{name}.txt", context, seed)


def load_text(path: Path, context: int, seed: int) -> Dataset:
    """Return a text file as windows of ``context`` characters: ids x and y of shape (windows, context).

    Raises:
        UsageError: the file is empty, not UTF-8 text, too large, or too short for the context.
    """
    return _dataset("text", path, context, seed)


def beginning(characters: int, seed: int) -> int:
    """Return the index of the character at which a text is cut open."""
    return int(np.random.Generator(np.random.PCG64([seed, 2])).integers(characters))


def _dataset(name: str, path: Path, context: int, seed: int) -> Dataset:
    if context < 1:
        raise UsageError(
            f"{path} is a file; images come from a folder, name the folder that holds it; a text is for "
            "model = 'transformer'"
        )
    ids, characters = _ids(path, _read(path))
    ends = [round(TRAIN_SHARE * len(ids)), round((TRAIN_SHARE + VALIDATION_SHARE) * len(ids))]
    parts = np.split(np.roll(ids, -beginning(len(ids), seed)), ends)
    shortest = min(map(len, parts))
    if shortest <= context:
        raise UsageError(
            f"{path}: {len(ids)} characters are too few for context = {context}: the shortest of the three parts has "
            f"{shortest} and needs {context + 1}; give a longer text or a smaller context"
        )
    train, validation, test = (_windows(part, context) for part in parts)
    digest = hashlib.sha256(f"{characters} ".encode() + ids.tobytes()).hexdigest()
    return Dataset(name, characters, train, validation, test, digest, (context,))


def _read(path: Path) -> str:
    size = path.stat().st_size
    if size == 0:
        raise UsageError(f"{path} is empty; give a text")
    if size > LARGEST_TEXT:
        raise UsageError(f"{path}: {size} bytes exceed the limit of {LARGEST_TEXT}; give a part of it")
    content = path.read_bytes()
    if b"\0" in content:
        raise UsageError(f"{path}: byte {content.index(0)} is zero, so this is not text; give a UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: byte {problem.start} is not UTF-8; save the text as UTF-8") from None


def _ids(path: Path, text: str) -> tuple[np.ndarray, int]:
    """Return the characters as indices, in the order of code points, and the number of distinct characters."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    present = np.zeros(_LAST_POINT + 1, dtype=bool)
    present[points] = True
    number = np.cumsum(present) - 1
    if number[-1] < 1:
        raise UsageError(f"{path} repeats a single character; give a text")
    return number[points], int(number[-1]) + 1


def _windows(part: np.ndarray, context: int) -> Split:
    """Return windows, and the same windows shifted by one character; an incomplete last window is dropped."""
    ids = torch.from_numpy(part)
    count = (len(part) - 1) // context
    x, y = ids[: count * context], ids[1 : count * context + 1]
    return Split(x.view(count, context), y.view(count, context))
