"""The generated package as it is on the disk: what a result of its layers follows from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import affine_divergence

SUFFIXES = (".py", ".cu", ".cuh", ".cpp", ".h")  # of files that compute something


def digests() -> dict[str, str]:
    """Return the SHA-256, in hexadecimal, of every file of the generated package that computes something, by path."""
    folder = Path(str(affine_divergence.__file__)).parent
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
