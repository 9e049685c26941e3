"""Digests of the generated package's files on disk, which identify the code behind a result."""

from __future__ import annotations

import hashlib
from pathlib import Path

import affine_divergence

SUFFIXES = (".py", ".cu", ".cuh", ".cpp", ".h")  # source files


def digests() -> dict[str, str]:
    """Return the hexadecimal SHA-256 of every source file of the generated package, by path."""
    folder = Path(str(affine_divergence.__file__)).parent
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
