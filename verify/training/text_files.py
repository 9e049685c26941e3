"""A text as data: windows of characters, each with the character that follows every one of them.

The text is a ring, cut open where the split's seed says and then into three parts, 90 % to train on and 5 % each for
validation and test, so no part holds what another holds; each part is cut into windows that do not overlap. A character
is one code point. Not supported: texts larger than 1 GiB, encodings other than UTF-8.
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
    """Return a text that is shipped with the project."""
    return _dataset(name, BUILT_IN / f"{name}.txt", context, seed)


def load_text(path: Path, context: int, seed: int) -> Dataset:
    """Return a text file as windows of ``context`` characters: ids x and y of shape (windows, context).

    Raises:
        UsageError: a file that is empty, no UTF-8 text, too large, or too short for the context.
    """
    return _dataset("text", path, context, seed)


def beginning(characters: int, seed: int) -> int:
    """Return at which of its characters a text is cut open."""
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
            f"{path}: {len(ids)} characters are too few for context = {context}: of the three parts the shortest has "
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
        raise UsageError(f"{path}: {size} bytes are too many, at most {LARGEST_TEXT} are read; give a part of it")
    content = path.read_bytes()
    if b"\0" in content:
        raise UsageError(f"{path}: byte {content.index(0)} is zero, so this is no text; give a text in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: byte {problem.start} is not UTF-8; save the text as UTF-8") from None


def _ids(path: Path, text: str) -> tuple[np.ndarray, int]:
    """Return the characters as numbers in the order of their code points, and how many different ones there are."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    present = np.zeros(_LAST_POINT + 1, dtype=bool)
    present[points] = True
    number = np.cumsum(present) - 1
    if number[-1] < 1:
        raise UsageError(f"{path} holds one character over and over; give a text")
    return number[points], int(number[-1]) + 1


def _windows(part: np.ndarray, context: int) -> Split:
    """Return windows and the same shifted by one character; what is left over at the end is not used."""
    ids = torch.from_numpy(part)
    count = (len(part) - 1) // context
    x, y = ids[: count * context], ids[1 : count * context + 1]
    return Split(x.view(count, context), y.view(count, context))
