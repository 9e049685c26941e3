"""Write a file completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from derive.errors import UsageError


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, as ``write_bytes`` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a temporary file beside it, flushed to disk, takes its place.

    A link is followed. A device or a pipe is written to directly, since no file may replace it. Raises UsageError if
    the folder is missing or not writable.
    """
    path = Path(path)
    special = path.exists() and not path.is_file()
    path = path.resolve() if path.is_symlink() and not special else path
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist; create it first")
    if path.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    temporary = ""
    try:
        if special:
            with path.open("wb", buffering=0) as stream:
                stream.write(content)
            return
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except OSError as problem:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise UsageError(f"cannot write {str(path)!r}: {problem.strerror}; name another path") from None


def _mode(path: Path) -> int:
    """Return the mode that the file has, or would get from a plain ``open``."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
