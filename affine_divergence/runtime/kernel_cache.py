"""Compiled kernels on disk: one file per source, type and processor, in a folder that only its owner can write to."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

VARIABLE = "AFFINE_DIVERGENCE_CACHE"
_CHECKSUM = 32  # bytes before the code


class KernelError(RuntimeError):
    """Kernels cannot be compiled, loaded or launched; the message says why and what to do."""


def folder() -> Path:
    """Return the folder of compiled kernels; create it with mode 0700 if it does not exist.

    The environment variable AFFINE_DIVERGENCE_CACHE names it; the default is ``affine-divergence`` in the user's cache
    folder, or for a user without a home a folder per user among the temporary files. Raises ``KernelError`` if it
    cannot be made, or if another user owns it or may write to it.
    """
    chosen = os.environ.get(VARIABLE)
    path = Path(chosen) if chosen else _usual()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as problem:
        raise KernelError(
            f"the cache folder {path} cannot be made ({problem.strerror}); name another in {VARIABLE}"
        ) from None
    if not stat.S_ISDIR(found.st_mode):
        raise KernelError(f"the cache folder {path} is not a folder, or is a link; name another in {VARIABLE}")
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        raise KernelError(
            f"the cache folder {path} is open to other users (mode {stat.S_IMODE(found.st_mode):o}), so code in it "
            f"could be theirs; run `chmod 700` on it, or name another in {VARIABLE}"
        )
    return path


def _usual() -> Path:
    """Return the default folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "affine-divergence"
    except RuntimeError:  # no HOME and no entry in the user database
        user = os.geteuid() if hasattr(os, "geteuid") else "user"
        return Path(tempfile.gettempdir(), f"affine-divergence-{user}")


def cached(key: str, make: Callable[[], bytes], kind: str = "cubin") -> bytes:
    """Return the code for a key, a hexadecimal name: from the folder, or made and stored there by a single process.

    Raises ``KernelError`` if the folder cannot be written to or the disk is full.
    """
    path = folder() / f"{key}.{kind}"
    try:
        found = _read(path)
        if found is not None:
            return found
        with _lock(path.with_suffix(".lock")):
            found = _read(path)  # another process may have been faster
            if found is None:
                found = make()
                _write(path, found)
    except OSError as problem:
        raise KernelError(
            f"compiled kernels cannot be kept in {path.parent} ({problem.strerror or problem}); name another folder in "
            f"{VARIABLE}"
        ) from None
    return found


def _read(path: Path) -> bytes | None:
    """Return the code in a file; None if the file is missing or damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    code = whole[_CHECKSUM:]
    return code if hashlib.sha256(code).digest() == whole[:_CHECKSUM] else None


def _write(path: Path, code: bytes) -> None:
    """Write a file atomically."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock between processes: by ``filelock`` if installed, else by the system if it can."""
    try:
        with importlib.import_module("filelock").FileLock(path):
            yield
        return
    except ModuleNotFoundError:
        pass
    try:
        fcntl = importlib.import_module("fcntl")
    except ModuleNotFoundError:  # writes are still atomic; at worst two processes compile the same
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
